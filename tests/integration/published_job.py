"""A job with a real master, etcd and inference pod, whose trainer ranks write and attest what a test tells them to."""

import asyncio
import pickle
import random
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack, PhaseRecord, Role
from tandem_core.coordination.store import Store
from tandem_core.phases import Phase
from tandem_core.weights.manifest import Commit, ManifestPart
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_trainer.naming import OwnedSlice
from tandem_trainer.publish import Publication, Publisher
from tandem_trainer.shard_layout import Box, plan_layout
from torch.nn.utils.rnn import pad_sequence

from .phase_members import Members, build_job
from .sidecar_pod import TOKEN, SidecarPod, Trainer, free_address, generate, wait_until_up
from .test_phase_driver import start_master
from .weight_pods import WeightPod, serving

MODELS = 3
"""Version v has the weights of model v modulo this: an odd number, so that every slot holds every model."""
RANKS = range(2)


@dataclass
class PublishedJob:
    """`async with start_job(...)` makes one: its master waits in Publishing of each version for the test."""

    store: Store
    keys: JobKeys
    inference: SidecarPod
    places: list[WeightPod]
    """The hybrid pods, of one rank each."""
    models: list[transformers.PreTrainedModel] = field(default_factory=list)
    weights: list[dict[str, torch.Tensor]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    """What the inference pod answered, without the prompts; `check_answers` takes them away."""
    _publishers: list[Publisher] = field(default_factory=list)
    _replicated: bool = False

    def start_ranks(self, *, replicated: bool) -> None:
        """As if the trainer had started anew: each rank has the whole model, or every other tensor."""
        self._replicated, incarnation = replicated, uuid.uuid4().hex
        self._publishers = []
        for rank, place in enumerate(self.places):
            publication = Publication(rank, len(self.places), incarnation, place.name, place.url, place.shm_dir)
            layout = plan_layout(map(Box.of, self.slices(rank, version=0)))
            self._publishers.append(Publisher(publication, layout, threads=1))

    def slices(self, rank: int, version: int) -> list[OwnedSlice]:
        """What a rank holds of a version."""
        weights = self.weights[version % MODELS]
        names = sorted(weights) if self._replicated else sorted(weights)[rank :: len(self.places)]
        return [OwnedSlice(n, tuple(weights[n].shape), (0,) * weights[n].dim(), weights[n]) for n in names]

    def write(self, rank: int, version: int) -> ManifestPart:
        """Write a rank's slices; what it has to attest."""
        return self._publishers[rank].publish(version, self.slices(rank, version))

    async def attest(self, part: ManifestPart) -> None:
        """Put the part, and say that the rank has published."""
        await self.store.put(self.keys.manifest_part(part.version, part.rank), part)
        ack = Ack(member=f"trainer-{part.rank}", iteration=part.version, phase=Phase.PUBLISHING)
        await self.store.put(self.keys.ack(part.version, Phase.PUBLISHING, ack.member), ack)

    async def publish(self, version: int) -> None:
        """All ranks write and attest."""
        for rank in RANKS:
            await self.attest(self.write(rank, version))

    async def die_while_publishing(self, rank: int, version: int) -> None:
        """A process publishes as the rank and is killed half-way."""
        file = self.places[rank].shm_dir / "dying"
        file.write_bytes(pickle.dumps((self._publishers[rank].publication, self.slices(rank, version))))
        command = [sys.executable, "-m", "tests.integration.dying_rank", str(file), str(version)]
        status = await asyncio.to_thread(subprocess.call, command, cwd=Path(__file__).parents[2])
        assert status == -9

    async def next_publication(self) -> int:
        """The version that the master waits for, as soon as it does."""
        async with Mirror(self.store, self.keys.phase, PhaseRecord) as phases:
            newest = await self.store.get(self.keys.newest_commit, Commit)
            record = await phases.wait_for(lambda values: _publishing(values.get(""), newest), 60)
        return record.version

    async def serving(self, version: int) -> None:
        """Return when the inference pod serves the version."""
        await Trainer(self.store, self.inference).serving(version)

    async def assert_still(self, version: int) -> None:
        """The version is the newest that exists, and the engine's next answers are of it."""
        newest = await self.store.get(self.keys.newest_commit, Commit)
        assert newest is not None
        assert newest.version == version
        assert await self.store.get(self.keys.commit(version + 1), Commit) is None
        await self.check_answers()
        await self.wait_for_answers(4)
        assert await self.check_answers() == {version}

    async def ask_without_pause(self) -> None:
        """Answers of various lengths, until cancelled."""
        draw = random.Random(len(self.answers))
        while True:
            prompt = [draw.randrange(2, 12) for _ in range(draw.randrange(1, 6))]
            choice = await generate(self.inference.engine_url, prompt, draw.choice((4, 16, 64)))
            self.answers.append(choice | {"prompt": prompt})

    async def wait_for_answers(self, count: int) -> None:
        """Return when there are so many more answers."""
        wanted = len(self.answers) + count
        async with asyncio.timeout(60):
            while len(self.answers) < wanted:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.02)

    async def check_answers(self) -> set[int]:
        """The versions of the answers so far; each answer is of one, and its log-probabilities are that one's."""
        answers, self.answers = self.answers, []
        by_version: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for choice in answers:
            if choice["token_ids"]:  # else aborted before the first
                (span,) = choice["weight_versions"]
                assert (span["start"], span["end"]) == (0, len(choice["token_ids"]))
                by_version[int(span["version"])].append(choice)
        for version, choices in by_version.items():
            # In a thread: the members of the job live in this one.
            differences = await asyncio.to_thread(measure_differences, self.models[version % MODELS], choices)
            assert max(differences) < 1e-4, version
        return set(by_version)


def measure_differences(model: transformers.PreTrainedModel, choices: list[dict[str, Any]]) -> list[float]:
    """For each answer the largest difference of its log-probabilities from those of the model."""
    rows = [torch.tensor(choice["prompt"] + choice["token_ids"]) for choice in choices]
    with torch.no_grad():
        logprobs = model(pad_sequence(rows, batch_first=True)).logits.log_softmax(-1)
    differences = []
    for choice, row, found in zip(choices, rows, logprobs, strict=True):
        expected = found[: len(row) - 1].gather(1, row[1:, None])[len(choice["prompt"]) - 1 :, 0]
        given = torch.tensor([token["logprob"] for token in choice["logprobs"]["content"]])
        differences.append((expected - given).abs().max().item())
    return differences


def _publishing(record: PhaseRecord | None, newest: Commit | None) -> PhaseRecord | None:
    if record is None or record.phase != Phase.PUBLISHING or (newest and newest.version >= record.version):
        return None
    return record


@asynccontextmanager
async def start_job(directory: Path, shm_dir: Path, etcd_endpoint: str) -> AsyncIterator[PublishedJob]:
    """A job whose inference pod serves version 0 and is asked all the time."""
    torch.set_num_threads(1)  # more would take the cores from the engine
    spec = build_job("spec.iterations=1000", "spec.deadlines.startup=300", "spec.deadlines.publishing=600")
    keys = JobKeys("fail-stop")
    with ExitStack() as pods:
        places = [WeightPod(f"sums-hybrid-{rank}", shm_dir / str(rank)) for rank in RANKS]
        for place in places:
            place.shm_dir.mkdir(parents=True)
            pods.enter_context(serving(place, TOKEN))
        inference = SidecarPod(directory, spec, keys.job_uid, free_address(), etcd_endpoint, Role.INFERENCE)
        pods.callback(lambda: print(inference.log()))
        pods.enter_context(inference.running())
        async with (
            Store(etcd_endpoint) as store,
            ReplayBuffer(sqlite_url(directory / "replay.sqlite"), "uid-1") as buffer,
            Members(store, keys, spec, buffer, publishing=False),
            start_master(store, keys, spec, buffer) as master,
            AsyncExitStack() as tasks,
        ):
            job = PublishedJob(store, keys, inference, places)
            trainer = Trainer(store, inference)
            await trainer.member(lambda member: member.engine is not None)  # it has written the model's files
            job.models, job.weights = map(
                list, zip(*(trainer.make_weights(seed) for seed in range(MODELS)), strict=True)
            )
            running = asyncio.create_task(master.driver.run())
            tasks.callback(running.cancel)
            await wait_until_up(inference.engine_url, "/health", 300)
            job.start_ranks(replicated=False)
            await job.publish(await job.next_publication())
            await job.serving(0)
            for _ in range(3):
                tasks.callback(asyncio.create_task(job.ask_without_pause()).cancel)
            yield job
