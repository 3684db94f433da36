"""Every port on which a run's processes listen, and what it answers somebody without the job's token."""

import socket
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product

import httpx
import psutil
from tandem_core.environment import CHECKPOINT_ENGINE_PORT, ENGINE_PORT, MASTER_PORT, TRAINER_METRICS_PORT

ASKED: tuple[tuple[str, dict[str, str]], ...] = (
    ("GET", {}),
    ("GET", {"Authorization": "Bearer another"}),
    ("GET", {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
             "Sec-WebSocket-Version": "13"}),
    ("POST", {}),
    ("PUT", {}),
    ("DELETE", {}),
)  # fmt: skip
"""Methods and headers."""
SILENCE_SECONDS = 1.0
"""What has not answered after this time has nothing to say to a stranger."""
PARTS = {
    MASTER_PORT: "master",
    CHECKPOINT_ENGINE_PORT: "checkpoint engine",
    TRAINER_METRICS_PORT: "torchrun's agent",
    ENGINE_PORT: "vLLM",
    2379: "etcd",
    2380: "etcd's peers",
}
COMMON_PATHS = (
    "/",
    "/healthz",
    "/readyz",
    "/health",
    "/metrics",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/ping",
    "/load",
    "/ui/",
)
_ENGINE = """
/v1/models /v1/completions /v1/chat/completions /v1/responses /v1/embeddings /v1/realtime /v1/load_lora_adapter
/inference/v1/generate /inference/v1/abort_requests /tokenize /detokenize /tokenizer_info /version /server_info
/classify /pooling /score /rerank /invocations /collective_rpc /get_world_size /abort_requests /pause /resume /is_paused
/sleep /wake_up /is_sleeping /reset_prefix_cache /reset_mm_cache /reset_encoder_cache /scale_elastic_ep /weight_info
/init_weight_transfer_engine /start_weight_update /update_weights /finish_weight_update /update_weight_version
/weight_checker /start_profile /stop_profile /fault_tolerance/status /kv_event_sources /release_kv_cache_memory
/shutdown_weight_transfer_engine /tandem/pause /tandem/resume /tandem/load
"""
ENGINE_PATHS = tuple(_ENGINE.split())
"""vLLM's, and those of the gate in front of it."""


@dataclass(frozen=True)
class Port:
    """A listening TCP port of a run."""

    address: str
    number: int
    programs: frozenset[str] = field(compare=False)
    """Of the processes that hold it."""

    @property
    def part(self) -> str:
        """Whose API it is; empty: none's."""
        return PARTS.get(self.number, "")


def observe_ports(run_id: str) -> list[Port]:
    """All ports of all processes of the run."""
    found: dict[tuple[str, int], set[str]] = {}
    for process in psutil.process_iter():
        try:
            if process.environ().get("TANDEM_RUN_ID") != run_id:
                continue
            words = [*process.cmdline(), ""]
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.setdefault(tuple(connection.laddr), set()).add(_program(words))
        except psutil.Error:
            continue
    return [Port(address, number, frozenset(names)) for (address, number), names in sorted(found.items())]


def _program(words: Sequence[str]) -> str:
    known = ("tandem_rollout", "tandem_sidecar", "tandem_trainer", "torch.distributed.run", "VLLM::EngineCore")
    return next((name for name in known if any(word.startswith(name) for word in words)), words[0].rpartition("/")[2])


def find_answers(port: Port, scheme: str, paths: Iterable[str]) -> set[tuple[str, str, int]]:
    """Method, path and status of what is answered without the token, but for "who are you", "no such thing" and "not
    here, but there"."""
    answers = set()
    url = f"{scheme}://{port.address}:{port.number}"
    with httpx.Client(base_url=url, verify=False, timeout=30, trust_env=False) as client:  # noqa: S501 - a stranger
        for (method, headers), path in product(ASKED, paths):
            status = client.request(method, path, headers=headers).status_code
            if status not in (307, 401, 403, 404, 405, 501):
                answers.add((method, path, status))
    return answers


def find_talkative(ports: Sequence[Port]) -> dict[Port, bytes]:
    """What ports that are nobody's API say when they are spoken to: HTTP, nothing at all, and nonsense."""

    def listen(port: Port) -> bytes:
        said = b""
        for words in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"", b"\x00" * 64):
            try:
                with socket.create_connection((port.address, port.number), SILENCE_SECONDS) as connection:
                    connection.sendall(words)
                    said += connection.recv(100)
            except OSError:
                continue
        return said

    with ThreadPoolExecutor(64) as pool:
        return {port: said for port, said in zip(ports, pool.map(listen, ports), strict=True) if said}
