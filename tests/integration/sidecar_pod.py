"""A pod with a checkpoint engine, and a stand-in for the trainer that publishes weights to it."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import torch
import transformers
import xxhash
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, EngineState, Member, PhaseRecord, Role
from tandem_core.coordination.store import Store
from tandem_core.environment import CHECKPOINT_ENGINE_PORT, ENGINE_PORT, PodEnvironment
from tandem_core.job import RLJob, dump_job, parse_job
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit, ManifestPart, TensorSlice
from tandem_sidecar.engine_arguments import build_engine_command

TOKEN = "a-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
DEADLINE_SECONDS = 120.0
JOB = """
apiVersion: tandem.dev/v1alpha1
kind: RLJob
metadata: {name: sums}
spec:
  iterations: 3
  model: {scratch: {tieEmbeddings: true, tokenizer: {tokens: ["0", "1", "2", "+", "="]}}}
  data: {reasoningGym: {task: chain_sum}}
  rewards: {scorers: [{type: exact}]}
  hybrid:
    device: cpu
    trainer: {precision: fp32}
    inference: {release: none, kvCacheBytes: 67108864, maxConcurrentSequences: 16}
"""


def make_job(*overrides: str) -> RLJob:
    """A tiny job on CPUs; overrides are NAME=VALUE below spec."""
    return parse_job(JOB, overrides=[f"spec.{override}" for override in overrides])


@dataclass(frozen=True)
class Belongings:
    """What a launcher and its engine hold."""

    processes: tuple[psutil.Process, ...]
    """The launcher first."""
    segments: frozenset[Path]
    """In /dev/shm."""
    scratch: Path

    def remains(self) -> list[str]:
        """What of it is still there."""
        processes = [str(process.pid) for process in self.processes if _lives(process)]
        return processes + [str(path) for path in (*self.segments, *self.scratch.glob("*")) if path.exists()]


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@dataclass
class SidecarPod:
    """One pod's addresses and directories, and its checkpoint engine as a process."""

    directory: Path
    job: RLJob
    job_uid: str
    address: str
    etcd_endpoint: str
    role: Role = Role.SIDECAR
    process: subprocess.Popen[bytes] | None = None
    environment: PodEnvironment = field(init=False)

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "job.yaml").write_text(dump_job(self.job))
        (self.directory / "token").write_text(TOKEN)
        self.environment = PodEnvironment(
            job_file=self.directory / "job.yaml",
            job_uid=self.job_uid,
            pod_name=f"{self.job_uid}-pod",
            pod_ip=self.address,
            etcd_endpoints=self.etcd_endpoint,
            token_file=self.directory / "token",
            shm_dir=self.directory / "shm",
            model_dir=self.directory / "model",
            checkpoint_dir=self.directory / "checkpoints",
            data_dir=self.directory / "data",
        )

    @property
    def url(self) -> str:
        """The checkpoint engine."""
        return f"http://{self.address}:{CHECKPOINT_ENGINE_PORT}"

    @property
    def engine_url(self) -> str:
        """vLLM."""
        return f"http://{self.address}:{ENGINE_PORT}"

    @contextmanager
    def running(self) -> Iterator["SidecarPod"]:
        """The checkpoint engine runs; it is ended with SIGTERM and must leave in order."""
        self.start()
        try:
            yield self
            belongings = self.observe_belongings()
            status = self.end(signal.SIGTERM)
            assert status == 0, f"the checkpoint engine ended with {status} after SIGTERM"
            assert belongings.remains() == []
        finally:
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait(30)

    def start(self) -> None:
        """Start the process."""
        variables = {
            f"TANDEM_{name.upper()}": str(value)
            for name, value in self.environment.model_dump(mode="json", exclude_none=True).items()
        }
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tandem_sidecar", "--role", self.role],
                env={**os.environ, **variables},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, number: signal.Signals) -> int:
        """Send a signal, and return the exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(60)

    def observe_belongings(self) -> "Belongings":
        """What there is of the pod's launcher and engine now."""
        assert self.process is not None
        processes = psutil.Process(self.process.pid).children(recursive=True)
        segments = {
            Path(name)
            for process in processes
            for name in (Path(f"/proc/{process.pid}/maps").read_text().split())
            if name.startswith("/dev/shm/")
        }
        command = build_engine_command(self.job, self.environment, self.directory / "model", self.role)
        return Belongings(tuple(processes), frozenset(segments), command.scratch_directory)

    def log(self) -> str:
        """The end of its log, for failures."""
        return (self.directory / "log").read_text()[-6000:]


async def wait_until[T](condition: Callable[[], T], timeout_seconds: float = DEADLINE_SECONDS) -> T:
    """The first true result of `condition`; for what gives no event."""
    async with asyncio.timeout(timeout_seconds):
        while not (result := condition()):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.02)
        return result


async def wait_until_up(url: str, path: str, timeout_seconds: float = DEADLINE_SECONDS) -> None:
    """Return when a GET answers 200."""
    async with httpx.AsyncClient(base_url=url) as client, asyncio.timeout(timeout_seconds):
        while True:
            try:
                if (await client.get(path)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)


async def wait_until_generating(engine_url: str) -> None:
    """Return when vLLM has a request in progress."""
    async with httpx.AsyncClient(base_url=engine_url, headers=HEADERS) as client, asyncio.timeout(30):
        while True:
            lines = (await client.get("/metrics")).text.splitlines()
            if any(line.startswith("vllm:num_requests_running{") and not line.endswith(" 0.0") for line in lines):
                return


class Trainer:
    """Publishes random weights, and moves the phases as the master does."""

    def __init__(self, store: Store, pod: SidecarPod) -> None:
        self.store = store
        self.pod = pod
        self.keys = JobKeys(pod.job_uid)

    def make_weights(self, seed: int) -> tuple[transformers.PreTrainedModel, dict[str, torch.Tensor]]:
        """A transformers model with random weights, and those that are published (tied ones once)."""
        torch.manual_seed(seed)
        config = transformers.AutoConfig.from_pretrained(self.pod.environment.model_dir)
        config.initializer_range = 0.2  # so that log-probs are far from uniform
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        weights = dict(model.state_dict())
        if config.tie_word_embeddings:
            del weights["lm_head.weight"]
        return model, weights

    async def publish(
        self,
        version: int,
        weights: dict[str, torch.Tensor],
        *,
        others: tuple[str, Path] | None = None,
        damage: str | None = None,
    ) -> Commit:
        """Write the weights as one rank does, or as two of which the second is in the pod (url, shm_dir) `others`;
        then commit. One bit of the tensor `damage` changes after its checksum was taken."""
        names = sorted(weights)
        places = [(self.pod.environment.pod_name, self.pod.url, self.pod.environment.shm_dir, names)]
        if others is not None:
            places = [(*places[0][:3], names[::2]), ("another-pod", *others, names[1::2])]
        incarnation = f"start-{version}"
        total = 0
        for rank, (pod, url, shm_dir, held) in enumerate(places):
            file = f"weights/{version % 2}/rank-{rank}.bin"
            slices, size = _write_rank_file(shm_dir / file, {name: weights[name] for name in held})
            total += sum(piece.size_bytes for piece in slices)
            for piece in slices:
                if piece.name == damage:
                    _flip_bit(shm_dir / file, piece.offset + piece.size_bytes // 2)
            part = ManifestPart(
                version=version,
                rank=rank,
                world_size=len(places),
                incarnation=incarnation,
                pod=pod,
                url=url,
                file=file,
                file_bytes=size,
                slices=tuple(slices),
            )
            await self.store.put(self.keys.manifest_part(version, rank), part)
        commit = Commit(
            version=version,
            world_size=len(places),
            incarnation=incarnation,
            token=1,
            size_bytes=total,
            committed_at=time.time(),
        )
        await self.store.put(self.keys.commit(version), commit)
        await self.store.put(self.keys.newest_commit, commit)
        return commit

    async def enter(self, phase: Phase, iteration: int, version: int = -1) -> None:
        """Move the job to a phase."""
        record = PhaseRecord(iteration=iteration, phase=phase, version=version, token=1, started_at=time.time())
        await self.store.put(self.keys.phase, record)

    async def ack(self, phase: Phase, iteration: int) -> Ack:
        """The pod's acknowledgement."""
        member = f"sidecar-{self.pod.environment.pod_name}"
        async with Mirror(self.store, self.keys.ack(iteration, phase, member), Ack) as acks:
            return await acks.wait_for(lambda values: values.get(""), DEADLINE_SECONDS)

    async def member(self, condition: Callable[[Member], bool]) -> Member:
        """The pod's entry among the members, once `condition` holds."""
        key = self.keys.member(self.pod.role, self.pod.environment.pod_name)
        async with Mirror(self.store, key, Member) as members:
            return await members.wait_for(
                lambda values: values[""] if "" in values and condition(values[""]) else None, DEADLINE_SECONDS
            )

    async def serving(self, version: int) -> Member:
        """The pod's entry once it serves `version`."""
        return await self.member(
            lambda member: (
                member.engine is not None
                and (member.engine.state, member.engine.version) == (EngineState.SERVING, version)
            )
        )


def _write_rank_file(path: Path, weights: dict[str, torch.Tensor]) -> tuple[list[TensorSlice], int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = bytearray()
    slices = []
    for name, tensor in weights.items():
        content += bytes(-len(content) % 64)
        data = tensor.detach().contiguous().numpy().tobytes()
        shape = tuple(tensor.shape)
        slices.append(
            TensorSlice(
                name=name,
                dtype="F32",
                global_shape=shape,
                start=(0,) * len(shape),
                shape=shape,
                offset=len(content),
                checksum=xxhash.xxh3_64_hexdigest(data),
            )
        )
        content += data
    path.write_bytes(content)
    return slices, len(content)


def _flip_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


async def generate(engine_url: str, prompt: list[int], max_tokens: int, **headers: str) -> dict[str, Any]:
    """The only choice of vLLM's answer."""
    body = {
        "token_ids": prompt,
        "sampling_params": {
            "max_tokens": max_tokens,
            "temperature": 1.0,
            "seed": 0,
            "logprobs": 0,
            "ignore_eos": True,
            "detokenize": False,
        },
    }
    async with httpx.AsyncClient(base_url=engine_url, timeout=DEADLINE_SECONDS) as client:
        response = await client.post("/inference/v1/generate", json=body, headers={**HEADERS, **headers})
    assert response.status_code == 200, response.text
    choice: dict[str, Any] = response.json()["choices"][0]
    return choice


def measure_difference(model: transformers.PreTrainedModel, prompt: list[int], choice: dict[str, Any]) -> float:
    """Largest difference between vLLM's log-probs and those of transformers, over the tokens of an answer."""
    tokens = prompt + choice["token_ids"]
    with torch.no_grad():
        logprobs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
    found = [token["logprob"] for token in choice["logprobs"]["content"]]
    expected = [float(logprobs[len(prompt) - 1 + index, token]) for index, token in enumerate(choice["token_ids"])]
    return max(abs(left - right) for left, right in zip(found, expected, strict=True))


def free_address() -> str:
    """A loopback address whose ports nobody uses: every pod has the same ports."""
    for last in range(2, 250):
        address = f"127.83.{os.getpid() % 250}.{last}"
        try:
            with socket.socket() as first, socket.socket() as second:
                first.bind((address, CHECKPOINT_ENGINE_PORT))
                second.bind((address, ENGINE_PORT))
        except OSError:
            continue
        return address
    raise RuntimeError("no loopback address is free")
