"""The bare loop's side of vLLM: one server, started by hand, and the calls that the loop makes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from tandem_core.job import RLJobSpec

from bench.bare_weights import BACKEND

ROOT = Path(__file__).parents[1]
START_SECONDS = 600.0
HOST = "127.0.0.1"


class BareEngine:
    """One vLLM with the settings that a job gives its engine; an async context manager that ends it."""

    def __init__(self, spec: RLJobSpec, model_dir: Path, port: int) -> None:
        self._spec, self._url = spec, f"http://{HOST}:{port}"
        inference = spec.hybrid.inference
        arguments = ["--model", str(model_dir), "--served-model-name", "bare", "--host", HOST, "--port", str(port)]
        arguments += ["--load-format", "dummy", "--enforce-eager", "--dtype", "float32", "--generation-config", "vllm"]
        arguments += ["--enable-scale-out", "--disable-uvicorn-access-log", "--uvicorn-log-level", "warning"]
        arguments += ["--max-num-seqs", str(inference.max_concurrent_sequences)]
        arguments += ["--max-model-len", str(inference.max_length)]
        arguments += ["--kv-cache-memory-bytes", str(inference.kv_cache_bytes), "--seed", str(spec.seed)]
        arguments += ["--weight-transfer-config", json.dumps({"backend": BACKEND})]
        arguments += ["--worker-extension-cls", "bench.bare_weights.BareWorkerExtension"]
        environment = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(spec.hybrid.trainer.threads or 1),
            "TORCH_COMPILE_DISABLE": "1",
            "PYTHONPATH": str(ROOT),
        }
        self._log = (model_dir / "engine.log").open("wb")
        self._process = subprocess.Popen(
            # It ends with this process, however that ends.
            ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
            env=os.environ | environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._http = aiohttp.ClientSession(
            self._url, timeout=aiohttp.ClientTimeout(total=600), connector=aiohttp.TCPConnector(limit=0)
        )

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(START_SECONDS):
                while not await self._healthy():  # noqa: ASYNC110 - nothing tells that vLLM is up
                    await asyncio.sleep(0.1)
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        await self._post("/init_weight_transfer_engine", {"init_info": {}})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._log.close()

    async def update(self, file: Path, version: int) -> None:
        """Serve the weights in `file`."""
        await self._post("/pause?mode=abort")
        await self._post("/start_weight_update")
        await self._post("/update_weights", {"update_info": {"path": str(file)}})
        await self._post("/finish_weight_update", {"weight_version": str(version)})
        await self._post("/resume")

    @property
    def url(self) -> str:
        """http://address:port of the server."""
        return self._url

    async def generate(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[dict[str, Any]]]:
        """The choices of each prompt: a group of answers, sampled with seeds from `seed` on."""
        rollout = self._spec.rollout
        sampling = {"n": rollout.group_size, "max_tokens": rollout.max_tokens, "temperature": rollout.temperature}
        sampling |= {"logprobs": 0, "detokenize": False}
        return await self.answer(
            {"token_ids": list(prompt), "sampling_params": sampling | {"seed": seed + 1000 * place}}
            for place, prompt in enumerate(prompts)
        )

    async def answer(self, bodies: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """The choices that vLLM answers to each of the requests, which are sent at the same time."""
        answers = await asyncio.gather(*(self._post("/inference/v1/generate", body) for body in bodies))
        return [answer["choices"] for answer in answers]

    async def forget_prefixes(self) -> None:
        """Empty the prefix cache, so that the same request costs as much again."""
        await self._post("/reset_prefix_cache")

    async def _post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        async with self._http.post(path, json=body) as response:
            response.raise_for_status()
            return json.loads(await response.read() or b"null")

    async def _healthy(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"vLLM ended with status {self._process.returncode}: see {self._log.name}")
        try:
            async with self._http.get("/health") as response:
                return response.ok
        except aiohttp.ClientError:
            return False
