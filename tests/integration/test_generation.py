"""Generation with a real vLLM server: the endpoint, partial rollouts, and whole iterations of the master."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import httpx
import numpy as np
import pytest
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Control, Member
from tandem_core.coordination.store import Store
from tandem_core.job.rollout import RepetitionSpec
from tandem_core.model_files import prepare_model
from tandem_core.phases import Phase
from tandem_rollout.answer_pool import AnswerPool
from tandem_rollout.engine_client import EngineClient, EngineRefused, Generated, GenerateRequest
from tandem_rollout.evaluation import Evaluator
from tandem_rollout.history_writer import HistoryWriter
from tandem_rollout.phase_driver import PhaseDriver
from tandem_rollout.prompts import load_prompts
from tandem_rollout.rewards.scoring import Scoring
from tandem_rollout.rollout_phase import Rollouts
from tandem_rollout.storage.replay_buffer import ReplayBuffer, sqlite_url
from tandem_rollout.tokenization import load_tokenizer
from tandem_rollout.trajectory import FinishReason, VersionSpan

from tools.free_ports import find_free_port

from .phase_members import Members, build_job
from .tiny_engine import HEADERS, TOKEN, serve_tiny_engine

LONG = 400


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_tiny_engine(tmp_path_factory.mktemp("engine"), find_free_port()) as url:
        yield url


def request(prompt: list[int], count: int = 1, tokens: int = 16, **changes: object) -> GenerateRequest:
    values: dict[str, object] = {
        "prompt": prompt,
        "count": count,
        "max_tokens": tokens,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 1,
        "repetition": RepetitionSpec(),
    }
    return GenerateRequest(**(values | changes))  # type: ignore[arg-type]


def client() -> EngineClient:
    return EngineClient(TOKEN, request_timeout_seconds=120)


async def post(url: str, path: str, **body: object) -> httpx.Response:
    async with httpx.AsyncClient(headers=HEADERS, timeout=60) as http:
        response = await http.post(url + path, json=body)
        response.raise_for_status()
        return response


async def generated_tokens(url: str) -> float:
    async with httpx.AsyncClient(headers=HEADERS, timeout=60) as http:
        text = (await http.get(f"{url}/metrics")).text
    return sum(
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("vllm:generation_tokens_total")
    )


async def until(condition: Callable[[float], bool], url: str) -> None:
    """Return when the engine's count of generated tokens fulfils the condition."""
    async with asyncio.timeout(60):
        while not condition(await generated_tokens(url)):  # noqa: ASYNC110 - the count is in another process
            await asyncio.sleep(0.02)


async def long_prompt(url: str, engine_client: EngineClient) -> tuple[list[int], Generated]:
    """A prompt whose greedy answer does not end by itself, and that answer."""
    for first in range(2, 60):
        prompt = [first, 7, 5]
        answer = (await engine_client.generate(url, request(prompt, tokens=LONG, temperature=0.0), engine_version=0))[0]
        if len(answer.tokens) == LONG:
            return prompt, answer
    raise AssertionError("all greedy answers are short")


async def test_a_group_is_one_request_and_repeats_with_its_seed(engine: str) -> None:
    async with client() as engine_client:
        group = await engine_client.generate(engine, request([5, 6, 7], 8), engine_version=4)
        again = await engine_client.generate(engine, request([5, 6, 7], 8), engine_version=4)
        third = await engine_client.generate(engine, request([5, 6, 7], seed=3), engine_version=4)
    assert len({tuple(answer.tokens.tolist()) for answer in group}) > 4
    assert [answer.tokens.tolist() for answer in group] == [answer.tokens.tolist() for answer in again]
    assert third[0].tokens.tolist() == group[2].tokens.tolist()
    for answer in group:
        assert len(answer.logprobs) == len(answer.tokens) == sum(span.count for span in answer.versions)
        ended = answer.tokens[-1] == 1
        assert answer.finish_reason is (FinishReason.STOP if ended else FinishReason.LENGTH)


async def test_tokens_and_logprobs_are_those_of_the_completions_endpoint(engine: str) -> None:
    async with client() as engine_client:
        mine = (await engine_client.generate(engine, request([8, 9, 4], seed=11), engine_version=0))[0]
    sampling = {"max_tokens": 16, "temperature": 1.0, "seed": 11, "logprobs": 0, "return_token_ids": True}
    theirs = (await post(engine, "/v1/completions", model="tiny", prompt=[8, 9, 4], **sampling)).json()["choices"][0]
    assert mine.tokens.tolist() == theirs["token_ids"]
    np.testing.assert_allclose(mine.logprobs, theirs["logprobs"]["token_logprobs"], atol=1e-5)


async def test_an_aborted_answer_comes_back_in_part_and_goes_on_as_if_it_had_not_been(engine: str) -> None:
    async with client() as engine_client:
        prompt, whole = await long_prompt(engine, engine_client)
        before = await generated_tokens(engine)
        ask = request(prompt, tokens=LONG, temperature=0.0)
        running = asyncio.create_task(engine_client.generate(engine, ask, engine_version=0))
        await until(lambda tokens: tokens > before + 20, engine)
        await post(engine, "/pause?mode=abort")
        part = (await asyncio.wait_for(running, 30))[0]
        assert part.finish_reason is FinishReason.ABORTED
        assert 20 <= len(part.tokens) < LONG
        await post(engine, "/update_weight_version", new_version="7")
        await post(engine, "/resume")
        rest_of = request([*prompt, *part.tokens.tolist()], tokens=LONG - len(part.tokens), temperature=0.0)
        rest = (await engine_client.generate(engine, rest_of, engine_version=0))[0]
    assert [*part.tokens, *rest.tokens] == whole.tokens.tolist()
    np.testing.assert_allclose([*part.logprobs, *rest.logprobs], whole.logprobs, atol=1e-4)
    assert part.versions == (VersionSpan(0, len(part.tokens)),)
    assert rest.versions == (VersionSpan(7, len(rest.tokens)),)


async def test_a_frozen_answer_names_both_versions_that_made_it(engine: str) -> None:
    async with client() as engine_client:
        prompt, _ = await long_prompt(engine, engine_client)
        await post(engine, "/update_weight_version", new_version="8")
        before = await generated_tokens(engine)
        ask = request(prompt, tokens=LONG, temperature=0.0)
        running = asyncio.create_task(engine_client.generate(engine, ask, engine_version=0))
        await until(lambda tokens: tokens > before + 20, engine)
        await post(engine, "/pause?mode=keep")
        await post(engine, "/update_weight_version", new_version="9")
        await post(engine, "/resume")
        answer = (await running)[0]
    assert [span.version for span in answer.versions] == [8, 9]
    assert sum(span.count for span in answer.versions) == LONG


async def test_an_answer_that_goes_in_circles_is_ended(engine: str) -> None:
    async with client() as engine_client:
        loops = RepetitionSpec(max_pattern_tokens=1, repeats=2)
        answers = await engine_client.generate(engine, request([5, 6, 7], 32, 64, repetition=loops), engine_version=0)
    circles = [answer for answer in answers if answer.finish_reason is FinishReason.REPETITION]
    assert circles
    assert all(answer.tokens[-1] == answer.tokens[-2] for answer in circles)


async def test_a_wrong_request_is_refused_with_the_engines_words(engine: str) -> None:
    async with client() as engine_client:
        with pytest.raises(EngineRefused, match="2048"):
            await engine_client.generate(engine, request([5] * 3000), engine_version=0)
    async with EngineClient("wrong", request_timeout_seconds=60) as stranger:
        with pytest.raises(EngineRefused, match="401"):
            await stranger.generate(engine, request([5]), engine_version=0)


async def test_asking_costs_little_more_than_the_engine_itself(engine: str) -> None:
    """32 groups of 8 answers of 4 tokens, against the same answers asked for in one request."""
    prompts = [[2 + index % 10, 5, 6, 2 + index // 10] for index in range(32)]
    mine, bare = [], []
    async with client() as engine_client, httpx.AsyncClient(headers=HEADERS, timeout=60) as http:
        for turn in range(12):
            started, used = time.perf_counter(), time.process_time()
            asked = [request(prompt, 8, 4, seed=100 * turn + place) for place, prompt in enumerate(prompts)]
            await asyncio.gather(*(engine_client.generate(engine, each, engine_version=0) for each in asked))
            mine.append((time.perf_counter() - started, time.process_time() - used))
            started = time.perf_counter()
            body = {"model": "tiny", "prompt": prompts, "n": 8, "max_tokens": 4, "logprobs": 0, "detokenize": False}
            body |= {"return_token_ids": True, "return_tokens_as_token_ids": True}
            (await http.post(f"{engine}/v1/completions", json=body)).raise_for_status()
            bare.append(time.perf_counter() - started)
    seconds, cpu_seconds = median(each for each, _ in mine), median(each for _, each in mine)
    print(f"32 requests {seconds:.3f} s, {cpu_seconds:.3f} s of it the client; one request {median(bare):.3f} s")
    assert cpu_seconds < median(bare) / 4
    assert seconds < 4 * median(bare)


async def test_iterations_with_partial_rollouts(engine: str, store: Store, keys: JobKeys, tmp_path: Path) -> None:
    """The whole master but for its API: answers span iterations, every batch fits its metrics, nothing is lost."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(f'{{"prompt": "{a}+{b}=", "answer": "{a + b}"}}\n' for a in range(8) for b in range(8)))
    job = build_job(
        f"spec.data.dataset.path={prompts}",
        "spec.hybrid.replicas=1",
        "spec.rollout.maxTokens=64",
        "spec.rollout.tokensPerIteration=8",
        "spec.evaluation.prompts=4",
        "spec.deadlines.rollout=60",
    )

    async def drain(_: int) -> None:
        await post(engine, "/pause?mode=abort")

    async def load(version: int) -> None:
        await post(engine, "/update_weight_version", new_version=str(version))
        await post(engine, "/resume")

    tokenizer = load_tokenizer(prepare_model(job.spec.model, tmp_path / "model"))
    prompt_set = load_prompts(job.spec, tokenizer)
    async with (
        ReplayBuffer(sqlite_url(tmp_path / "replay.sqlite"), "uid-1") as buffer,
        Members(store, keys, job, buffer, engine_url=engine, on_drain=drain, on_load=load) as members,
        Leadership(store, keys, "sums-master-0") as leadership,
        Mirror(store, keys.members, Member) as mirror,
        Mirror(store, keys.control, Control) as control,
        Scoring(job.spec) as scoring,
        client() as engine_client,
    ):
        pool = AnswerPool(engine_client, mirror)
        rollouts = Rollouts(job.spec, prompt_set, tokenizer, scoring, buffer, pool)
        evaluator = Evaluator(job.spec, prompt_set, tokenizer, scoring, pool)
        history = HistoryWriter(buffer)
        driver = PhaseDriver(job, keys, store, leadership, mirror, control, buffer, rollouts, evaluator, history)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(work) for work in (pool.run(), rollouts.run(), history.run())]
            record = await asyncio.wait_for(driver.run(), 120)
            for task in background:
                task.cancel()
        assert record.phase == Phase.DONE, record.reason
        assert members.trained[0] == [1, 2, 3]
        assert [each.iteration for each in await buffer.evaluations()] == [0, 3]
        continued = 0
        for iteration, metrics in ((each.iteration, each.metrics) for each in (await buffer.iterations())[1:]):
            data = await buffer.batch(iteration)
            assert data is not None
            batch = TrainingBatch.decode(data)
            assert len(batch.lengths) == metrics["trained_samples"]
            assert metrics["groups"] >= 1
            assert batch.versions.max() == iteration - 1
            assert not batch.loss_mask[batch.versions < 0].any()
            assert (batch.behaviour_logprobs[batch.versions >= 0] < 0).all()
            continued += int(metrics["continued"] * metrics["samples"])
        assert continued > 0
        spans = {(each.first_version, each.last_version) for each in await buffer.samples(3)}
        assert any(first < last for first, last in spans)
