"""Rollouts through the master against vLLM asked directly, with the very same requests.

    .venv/bin/python -m bench.rollout_throughput [--rounds 12] [--no-write]

One vLLM server. The master's way is all that a job's master does in a rollout phase: its pool, parsing and checking of
answers, scoring in a process of its own, saving in the background (SQLite). What it asks is noted and then asked again
directly by a plain client that only reads the JSON. Weights are random numbers, so answers end by chance.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.membership import new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import EngineState, EngineStatus, Member, Role
from tandem_core.coordination.store import Store
from tandem_core.job import RLJobSpec, load_job
from tandem_core.model_files import prepare_model
from tandem_rollout.answer_pool import AnswerPool
from tandem_rollout.engine_client import EngineClient, Generated, GenerateRequest
from tandem_rollout.prompts import load_prompts
from tandem_rollout.rewards.scoring import Scoring
from tandem_rollout.rollout_phase import Rollouts
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.tokenization import load_tokenizer

from bench.bare_engine import BareEngine
from bench.etcd import serve_etcd
from bench.page import describe_machine, write_section

EXAMPLE = Path(__file__).parents[1] / "examples" / "addition.yaml"
PORT = 8191
LENGTHS = (4, 32, 128)
"""Most tokens of an answer."""
LONGEST = 256
WARM_UP = 2
KEYS = JobKeys("rollouts")


@dataclass(frozen=True)
class Throughput:
    """Medians over the rounds."""

    max_tokens: int
    tokens_each: float
    direct: float
    """Tokens a second."""
    master: float
    """Tokens a second."""
    ratio: float
    """Median of the rounds' ratios."""


class NotingClient(EngineClient):
    """Remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__("none", request_timeout_seconds=600)
        self.requests: list[GenerateRequest] = []

    async def generate(self, url: str, request: GenerateRequest, *, engine_version: int) -> list[Generated]:
        """As EngineClient does."""
        self.requests.append(request)
        return await super().generate(url, request, engine_version=engine_version)


def load_spec(max_tokens: int) -> RLJobSpec:
    """The example's job with longer answers."""
    settings = {
        "model.scratch.maxLength": LONGEST,
        "hybrid.inference.maxLength": LONGEST,
        "rollout.maxTokens": max_tokens,
        "warmup.steps": 0,
        "elastic.maxStaleness": 1000,  # the weights stay what they are
    }
    return load_job(EXAMPLE, [f"spec.{name}={value}" for name, value in settings.items()]).spec


async def measure(spec: RLJobSpec, model_dir: Path, endpoint: str, engine: BareEngine, rounds: int) -> Throughput:
    """Both ways, in turns."""
    direct, through, tokens = [], [], []
    async with NotingClient() as client, _start_master(spec, model_dir, endpoint, engine, client) as rollouts:
        for iteration in range(1, rounds + WARM_UP + 1):
            await rollouts.prepare(iteration)
            client.requests.clear()
            await engine.forget_prefixes()
            started = time.perf_counter()
            await rollouts.start(iteration)
            await rollouts.finish(iteration, spec.deadlines.rollout)
            through.append(time.perf_counter() - started)
            generated = (await rollouts.close(iteration, spec.iterations))["generated_tokens"]
            bodies = [request.body() for request in client.requests]
            await engine.forget_prefixes()
            started = time.perf_counter()
            answers = await engine.answer(bodies)
            direct.append(time.perf_counter() - started)
            tokens.append(sum(len(choice["token_ids"]) for choices in answers for choice in choices))
            if abs(tokens[-1] - generated) > 0.01 * generated:
                raise RuntimeError(
                    f"{generated:.0f} tokens through the master, {tokens[-1]} directly: not the same work"
                )
    direct, through, tokens = direct[WARM_UP:], through[WARM_UP:], tokens[WARM_UP:]
    return Throughput(
        max_tokens=spec.rollout.max_tokens,
        tokens_each=statistics.mean(tokens) / (spec.rollout.prompts * spec.rollout.group_size),
        direct=statistics.median(count / seconds for count, seconds in zip(tokens, direct, strict=True)),
        master=statistics.median(count / seconds for count, seconds in zip(tokens, through, strict=True)),
        ratio=statistics.median(a / b for a, b in zip(direct, through, strict=True)),
    )


@asynccontextmanager
async def _start_master(
    spec: RLJobSpec, model_dir: Path, endpoint: str, engine: BareEngine, client: EngineClient
) -> AsyncIterator[Rollouts]:
    """What a master has for rollouts; its only engine serves version 0."""
    status = EngineStatus(url=engine.url, state=EngineState.SERVING, version=0, max_concurrent_sequences=256)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(endpoint))
        await store.wait_until_reachable(30)
        await store.put(KEYS.member(Role.SIDECAR, "bench"), new_member(Role.SIDECAR, "bench", "bench", engine=status))
        members = await stack.enter_async_context(Mirror(store, KEYS.members, Member))
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        buffer = await stack.enter_async_context(ReplayBuffer(sqlite_url(Path(directory) / "replay.sqlite"), "bench"))
        scoring = await stack.enter_async_context(Scoring(spec))
        tokenizer = load_tokenizer(model_dir)
        pool = AnswerPool(client, members)
        rollouts = Rollouts(spec, load_prompts(spec, tokenizer), tokenizer, scoring, buffer, pool)
        rollouts.commit(0)
        tasks = [asyncio.create_task(pool.run()), asyncio.create_task(rollouts.run())]
        try:
            yield rollouts
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


def build_section(results: list[Throughput], spec: RLJobSpec) -> str:
    """The page's section."""
    rows = "\n".join(
        f"| {each.max_tokens} ({each.tokens_each:.1f}) | {each.direct:,.0f} | {each.master:,.0f} | {each.ratio:.1%} |"
        for each in results
    )
    return f"""`python -m bench.rollout_throughput`. {describe_machine()}

The model of `examples/addition.yaml`, {spec.rollout.prompts} prompts x {spec.rollout.group_size} answers at a time, the
same requests both ways, in turns; tokens a second, medians. The master's way has everything in it: drawing the order of
work, parsing, scoring, saving, until all groups are complete.

| longest answer (mean) | asked directly | through the master | ratio |
| --- | --- | --- | --- |
{rows}
"""


async def run(rounds: int) -> list[Throughput]:
    """All lengths, with one engine."""
    with tempfile.TemporaryDirectory() as directory, serve_etcd() as endpoint:
        spec = load_spec(max(LENGTHS))
        model_dir = prepare_model(spec.model, Path(directory))
        async with BareEngine(spec, model_dir, PORT) as engine:
            return [await measure(load_spec(length), model_dir, endpoint, engine, rounds) for length in LENGTHS]


def main() -> None:
    """Measure, print, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    section = build_section(asyncio.run(run(options.rounds)), load_spec(LENGTHS[0]))
    print(section)
    if not options.no_write:
        write_section("rollouts", section)


if __name__ == "__main__":
    main()
