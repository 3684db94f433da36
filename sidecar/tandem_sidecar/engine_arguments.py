"""With which arguments and environment vLLM is started: a pure function of the job."""

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tandem_core.coordination.records import Role
from tandem_core.environment import ENGINE_PORT, PodEnvironment
from tandem_core.job import RLJob

WEIGHT_TRANSFER_BACKEND = "tandem"
"""Name under which the worker extension registers its weight-transfer engine."""
WORKER_EXTENSION = "tandem_sidecar.vllm_extension.TandemWorkerExtension"
MIDDLEWARE = ("tandem_sidecar.engine_gate.EngineGate", "tandem_sidecar.engine_auth.EngineAuthentication")
"""vLLM puts each around the ones before it: the token is checked first."""

_MALLOC = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", "arena_max=1", "mmap_threshold=4294967296", "trim_threshold=1099511627776")
)
"""Each load frees and allocates all packed matrices: memory is kept, in huge pages, instead of being given back and
faulted in anew, which takes longer than packing."""

_DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@dataclass(frozen=True)
class EngineCommand:
    """What it takes to start one vLLM server."""

    arguments: tuple[str, ...]
    """Arguments of vLLM's API server."""
    environment: dict[str, str]
    """Variables beside those of this process."""
    preload: Path | None
    """The model directory, if engines are forked from a process that has imported vLLM and this model's class
    already (seconds instead of tens of them). Only where nothing of CUDA is there to survive a fork, and only with
    one worker: several are started by vLLM itself as fresh processes."""
    url: str
    """http(s)://address:port of the server."""
    scratch_directory: Path
    """The engine's temporary files, and nothing else's: emptied whenever an engine has ended."""


def build_engine_command(job: RLJob, pod: PodEnvironment, model_directory: Path, role: Role) -> EngineCommand:
    """How the engine of `role` (sidecar or inference) is started for the model in `model_directory`."""
    scratch = _scratch_directory(pod)
    cpu = job.spec.hybrid.device == "cpu"
    forked = cpu and job.spec.hybrid.inference.tensor_parallel == 1
    environment = _environment(pod, scratch) | (_cpu_environment(job, forked) if cpu else {})
    return EngineCommand(
        arguments=(
            *_server_arguments(job, pod),
            *_model_arguments(job, model_directory),
            *(_cpu_arguments(job) if cpu else _gpu_arguments(job, role)),
            *job.spec.hybrid.inference.extra_arguments,
        ),
        environment=environment,
        preload=model_directory if forked else None,
        url=pod.url(ENGINE_PORT),
        scratch_directory=scratch,
    )


def _server_arguments(job: RLJob, pod: PodEnvironment) -> list[str]:
    arguments = ["--host", pod.pod_ip, "--port", str(ENGINE_PORT), "--served-model-name", job.metadata.name]
    # Tokens in, tokens out: /inference/v1/generate answers 403 without this.
    arguments += ["--enable-scale-out"]
    # A line for each request would drown everything else in the log.
    arguments += ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning", "--disable-fastapi-docs"]
    if pod.tls_dir is not None:
        arguments += ["--ssl-certfile", str(pod.certificate_file), "--ssl-keyfile", str(pod.key_file)]
    for middleware in MIDDLEWARE:
        arguments += ["--middleware", middleware]
    return arguments


def _model_arguments(job: RLJob, model_directory: Path) -> list[str]:
    inference = job.spec.hybrid.inference
    precision = job.spec.hybrid.trainer.precision if inference.precision == "auto" else inference.precision
    arguments = ["--model", str(model_directory), "--dtype", _DTYPES[precision], "--seed", str(job.spec.seed)]
    # Weights only ever come from the trainer; reading a checkpoint first would be time lost.
    arguments += ["--load-format", "dummy"]
    arguments += ["--weight-transfer-config", f'{{"backend":"{WEIGHT_TRANSFER_BACKEND}"}}']
    arguments += ["--worker-extension-cls", WORKER_EXTENSION]
    # Otherwise the model's generation_config.json silently changes top_p, top_k and penalties, and the
    # engine's probabilities are no longer the policy's.
    arguments += ["--generation-config", "vllm"]
    # Of the distribution that tokens are sampled from, temperature and top_p included, as the trainer computes them;
    # the default is that of temperature 1.
    arguments += ["--logprobs-mode", "processed_logprobs"]
    arguments += ["--max-num-seqs", str(inference.max_concurrent_sequences)]
    if inference.tensor_parallel > 1:
        arguments += ["--tensor-parallel-size", str(inference.tensor_parallel)]
    if inference.max_length is not None:
        arguments += ["--max-model-len", str(inference.max_length)]
    if inference.kv_cache_bytes is not None:
        # On CPUs vLLM would otherwise take 0.92 of all memory.
        arguments += ["--kv-cache-memory-bytes", str(inference.kv_cache_bytes)]
    if job.spec.model.trust_remote_code:
        arguments += ["--trust-remote-code"]
    return arguments


def _cpu_arguments(job: RLJob) -> list[str]:
    # Compiling needs a C++ compiler and longer than small models run. A prompt of which a step computes a part only
    # kills vLLM's CPU engine if the request has a seed: it turns the random generator back, which a CPU's cannot do.
    return ["--enforce-eager", "--no-enable-chunked-prefill"]


def _gpu_arguments(job: RLJob, role: Role) -> list[str]:
    hybrid = job.spec.hybrid
    arguments = ["--gpu-memory-utilization", str(hybrid.inference.gpu_memory_share)]
    engines = hybrid.ranks_per_replica // hybrid.inference.tensor_parallel
    if engines > 1:
        arguments += ["--data-parallel-size", str(engines)]  # all GPUs of the pod behind one address
    if role is Role.SIDECAR and hybrid.inference.release == "sleep":
        arguments += ["--enable-sleep-mode"]
    return arguments


def _environment(pod: PodEnvironment, scratch: Path) -> dict[str, str]:
    return {
        "HF_HUB_OFFLINE": "1",  # the model's files are there already; a look at the hub costs seconds
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # /pause, /sleep and the weight endpoints are 404 without it
        # Model inspection (8 s on the first start) and compiled graphs are kept over restarts; on one machine, which
        # sets the variable, also from run to run.
        "VLLM_CACHE_ROOT": os.environ.get("VLLM_CACHE_ROOT") or str(pod.model_dir / ".vllm"),
        # Clients keep their connections for a whole phase; the default closes them after 5 idle seconds, and a
        # request that meets the closing is lost.
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",
        # A killed engine leaves files (vllm_dist_*, sockets): here they can be swept.
        "TMPDIR": str(scratch),
        "VLLM_RPC_BASE_PATH": str(scratch),
        "TANDEM_TOKEN_FILE": str(pod.token_file),
    }


def _cpu_environment(job: RLJob, one_worker: bool) -> dict[str, str]:
    threads = job.spec.hybrid.trainer.threads or 1  # more threads only pay from tens of millions of parameters
    environment = {
        # --enforce-eager leaves the sampler's compiled functions on: the first request with log-probs then waits
        # 14 s for a C++ compiler, and kills the engine where there is none.
        "TORCH_COMPILE_DISABLE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the automatic binding fails on machines with few cores
        "OMP_NUM_THREADS": str(threads),
        "GLIBC_TUNABLES": _MALLOC,
    }
    if one_worker:
        # The worker then lives in the engine's process: 1 GB and 420 MB of /dev/shm less.
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    return environment


def _scratch_directory(pod: PodEnvironment) -> Path:
    # Short, because Unix sockets are made in it and their paths may have 107 characters at most; the same after a
    # restart of this process, so that what its predecessor left is found.
    name = hashlib.sha256(f"{pod.job_uid}/{pod.pod_name}".encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"tandem-engine-{name}"
