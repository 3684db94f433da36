"""Assembles the rollout master and runs it to the job's end."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.leadership import Leadership, LeadershipLost
from tandem_core.coordination.membership import Membership, new_member
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Control, Member, PhaseRecord, Role, Summary
from tandem_core.coordination.store import Store
from tandem_core.environment import MASTER_PORT, PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, RLJobSpec
from tandem_core.model_files import prepare_model
from tandem_core.phases import Phase

from tandem_rollout.answer_pool import AnswerPool
from tandem_rollout.api import Presence
from tandem_rollout.batch import build_warmup_batch
from tandem_rollout.engine_client import EngineClient
from tandem_rollout.evaluation import Evaluator
from tandem_rollout.history_writer import HistoryWriter
from tandem_rollout.live_report import LiveReporter
from tandem_rollout.phase_driver import PASSING_ERRORS, PhaseDriver, ending_error
from tandem_rollout.phase_plan import live_spec
from tandem_rollout.prompts import PromptSet, load_prompts
from tandem_rollout.rewards.scoring import Scoring
from tandem_rollout.rollout_phase import Rollouts
from tandem_rollout.storage.address import replay_url
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.tokenization import Tokenizer, load_tokenizer

log = structlog.get_logger()

ETCD_SECONDS = 120.0
FLUSH_SECONDS = 10.0
"""How long the end may wait for answers to be saved: what kills after a stop signal does so after 30 s."""
ROUNDS_IN_A_REQUEST = 4
"""An engine that has not answered for so many deadlines of the rollout phase hangs."""


class UnusableInput(TandemError):
    """The job cannot begin, and a restart would not mend it."""


@dataclass(frozen=True, slots=True, eq=False)
class _Inputs:
    """What the job's spec names."""

    tokenizer: Tokenizer
    prompts: PromptSet


async def run_master(job: RLJob, pod: PodEnvironment, presence: Presence) -> PhaseRecord:
    """Lead the job until it is done or has failed; the final phase's record.

    Raises UnusableInput if the job cannot begin, and errors that another start may get over.
    """
    keys = JobKeys(pod.job_uid)
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(Store(pod.etcd_access()))
        await store.wait_until_reachable(ETCD_SECONDS)
        leadership = await stack.enter_async_context(Leadership(store, keys, pod.pod_name))
        try:
            buffer, scoring, inputs = await _open_inputs(stack, job, pod)
        except UnusableInput as error:
            await _refuse(store, leadership, keys, job, str(error))
            raise
        await buffer.take_over(leadership.token)
        await buffer.set_info({"job": job.model_dump(mode="json", by_alias=True, exclude_none=True)})
        presence.buffer = buffer
        training = inputs.prompts.training
        presence.build_warmup = lambda step: build_warmup_batch(job.spec, step, training, inputs.tokenizer)
        member = new_member(Role.MASTER, pod.pod_name, pod.pod_name, url=pod.url(MASTER_PORT))
        await stack.enter_async_context(Membership(store, keys, member))
        members = await stack.enter_async_context(Mirror(store, keys.members, Member))
        control = await stack.enter_async_context(Mirror(store, keys.control, Control))
        timeout = _request_timeout(job.spec, control)
        client = EngineClient(presence.token, pod.client_context(), request_timeout_seconds=timeout)
        await stack.enter_async_context(client)
        pool = AnswerPool(client, members)
        rollouts = Rollouts(job.spec, inputs.prompts, inputs.tokenizer, scoring, buffer, pool)
        evaluator = Evaluator(job.spec, inputs.prompts, inputs.tokenizer, scoring, pool)
        history = HistoryWriter(buffer)
        driver = PhaseDriver(
            job,
            keys,
            store,
            leadership,
            members,
            control,
            buffer,
            rollouts,
            evaluator,
            history,
            pod=pod.pod_name,
            batches_asked=lambda: presence.batches_asked,
        )
        presence.observe_members = lambda: members.values.values()
        presence.observe_served = lambda: history.current_served(time.time())
        presence.observe_job = lambda: dataclasses.replace(driver.observe(), groups=rollouts.count_groups())
        reporter = LiveReporter(job.spec, driver, rollouts, pool, lambda: presence.warmup_steps)
        following = _follow_control(job.spec, control, client, pool)
        watching = (_watch_leadership(leadership), _watch_engines(members, history))
        work = (pool.run(), rollouts.run(), history.run(), reporter.run(), following, *watching)
        try:
            return await _run_together(driver, work)
        finally:
            with contextlib.suppress(*PASSING_ERRORS, TimeoutError):
                async with asyncio.timeout(FLUSH_SECONDS):
                    await rollouts.flush()


async def _run_together(driver: PhaseDriver, work: Sequence[Coroutine[Any, Any, None]]) -> PhaseRecord:
    """Drive the phases while `work` goes on beside; an error in either ends both."""
    try:
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(each) for each in work]
            record = await driver.run()
            for task in background:
                task.cancel()
        return record
    except ExceptionGroup as errors:
        reason = str(ending_error(errors))
    return await driver.fail(reason)


async def _follow_control(spec: RLJobSpec, control: Mirror[Control], client: EngineClient, pool: AnswerPool) -> None:
    """Do at once what need not wait for the next phase."""
    while True:
        client.request_timeout_seconds = _request_timeout(spec, control)
        pool.drain(control.value.draining if control.value is not None else ())
        await control.next_change()


def _request_timeout(spec: RLJobSpec, control: Mirror[Control]) -> float:
    return ROUNDS_IN_A_REQUEST * live_spec(spec, control.value).deadlines.rollout


async def _watch_engines(members: Mirror[Member], history: HistoryWriter) -> None:
    """Note which engine serves which version, as it changes."""
    while True:
        history.note_engines(members.values.values(), time.time())
        await members.next_change()


async def _watch_leadership(leadership: Leadership) -> None:
    await leadership.lost.wait()
    raise LeadershipLost("the lease of this master expired: another one may lead")


async def _open_inputs(stack: AsyncExitStack, job: RLJob, pod: PodEnvironment) -> tuple[ReplayBuffer, Scoring, _Inputs]:
    """Open what the job's spec names, at the same time where that is slow. Raises UnusableInput, or StorageError."""
    loading = asyncio.create_task(asyncio.to_thread(_load_inputs, job, pod))
    stack.callback(loading.cancel)
    try:
        buffer = await stack.enter_async_context(ReplayBuffer(replay_url(job, pod), pod.job_uid))
        scoring = await stack.enter_async_context(Scoring(job.spec))
        return buffer, scoring, await loading
    except PASSING_ERRORS:
        raise
    except TandemError as error:
        raise UnusableInput(str(error)) from error


def _load_inputs(job: RLJob, pod: PodEnvironment) -> _Inputs:
    directory = prepare_model(job.spec.model, pod.model_dir)
    tokenizer = load_tokenizer(directory, trust_remote_code=job.spec.model.trust_remote_code)
    prompts = load_prompts(job.spec, tokenizer)
    log.info("prompts", training=len(prompts.training), held_out=len(prompts.held_out))
    return _Inputs(tokenizer, prompts)


async def _refuse(store: Store, leadership: Leadership, keys: JobKeys, job: RLJob, reason: str) -> None:
    """Tell a job that has not begun that it cannot; one that is under way is left to the next start."""
    if await store.get(keys.phase, PhaseRecord) is not None:
        return
    now = time.time()
    record = PhaseRecord(
        iteration=0, phase=Phase.FAILED, version=-1, token=leadership.token, started_at=now, reason=reason
    )
    summary = Summary(
        phase=Phase.FAILED, iteration=0, iterations=job.spec.iterations, version=-1, message=reason, updated_at=now
    )
    await leadership.write({keys.phase: record, keys.summary: summary})
