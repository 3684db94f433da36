"""A vLLM server with a tiny model of random weights, as a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tandem_core.job.model import ModelSpec
from tandem_core.model_files import prepare_model

TOKEN = "a-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
START_SECONDS = 240.0


def write_tiny_model(directory: Path) -> Path:
    """A Qwen3 model whose random weights are large enough for clear preferences, so that greedy answers repeat."""
    spec = ModelSpec.model_validate({"scratch": {"layers": 2, "tokenizer": {"tokens": list("0123456789+=")}}})
    prepare_model(spec, directory)
    config = json.loads((directory / "config.json").read_text())
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    rng = np.random.default_rng(0)

    def random(*shape: int) -> npt.NDArray[np.float32]:
        return (0.15 * rng.standard_normal(shape)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": random(config["vocab_size"], hidden), "model.norm.weight": ones(hidden)}
    for layer in range(config["num_hidden_layers"]):
        tensors |= {
            f"model.layers.{layer}.{name}.weight": value
            for name, value in {
                "self_attn.q_proj": random(queries, hidden),
                "self_attn.k_proj": random(keys, hidden),
                "self_attn.v_proj": random(keys, hidden),
                "self_attn.o_proj": random(hidden, queries),
                "self_attn.q_norm": ones(head),
                "self_attn.k_norm": ones(head),
                "mlp.gate_proj": random(inner, hidden),
                "mlp.up_proj": random(inner, hidden),
                "mlp.down_proj": random(hidden, inner),
                "input_layernorm": ones(hidden),
                "post_attention_layernorm": ones(hidden),
            }.items()
        }
    save_file(tensors, str(directory / "model.safetensors"), {"format": "pt"})
    return directory


def ones(size: int) -> npt.NDArray[np.float32]:
    return np.ones(size, dtype=np.float32)


@contextmanager
def serve_tiny_engine(directory: Path, port: int) -> Iterator[str]:
    """The address of a healthy server; it is ended with all its processes."""
    model = write_tiny_model(directory / "model")
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(directory),  # it leaves files behind when it is killed
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",
    }
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)),
        *("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--api-key", TOKEN),
        *("--enforce-eager", "--kv-cache-memory-bytes", "67108864", "--dtype", "float32", "--max-model-len", "2048"),
        *("--enable-scale-out", "--disable-uvicorn-access-log"),
    ]
    url = f"http://127.0.0.1:{port}"
    with (directory / "engine.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_until_healthy(url, process, directory / "engine.log")
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait_until_healthy(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError(f"vLLM is not healthy:\n{log.read_text()[-3000:]}")
