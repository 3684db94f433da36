"""One iteration's rollouts: what is carried over first, then new groups, until the phase has enough."""

import asyncio
import dataclasses
import time
from collections.abc import Mapping, Sequence

import structlog
from tandem_core.errors import TandemError
from tandem_core.job import RLJobSpec

from tandem_rollout.answer_pool import ALL_ENGINES, HYBRID_ENGINES, STANDALONE_ENGINES, AnswerPool
from tandem_rollout.answers import Answer, build_sampling, build_works, outstanding_tokens
from tandem_rollout.batch import build_batch
from tandem_rollout.group_scoring import GroupScorer
from tandem_rollout.metrics import note_scores
from tandem_rollout.progress import ProgressSaver
from tandem_rollout.prompts import PromptSet
from tandem_rollout.rewards.scoring import Scoring
from tandem_rollout.rollout_metrics import measure_groups
from tandem_rollout.sampling import choose_prompts
from tandem_rollout.storage.replay_buffer import ReplayBuffer
from tandem_rollout.tokenization import Tokenizer
from tandem_rollout.trajectory import Group, ScoredGroup, TrajectoryState

log = structlog.get_logger()


class NoEngine(TandemError):
    """No engine served during a whole rollout phase."""


class Rollouts:
    """All answers of the job that no batch has yet, from the replay buffer to the engines and back.

    `start` - `finish` - `close` are called once in this order for each iteration. Between `finish` and the next `start`
    standalone engines go on with what is carried over, on the next iteration's budget.
    """

    def __init__(
        self,
        spec: RLJobSpec,
        prompts: PromptSet,
        tokenizer: Tokenizer,
        scoring: Scoring,
        buffer: ReplayBuffer,
        pool: AnswerPool,
    ) -> None:
        self._spec = spec
        self._prompts = prompts
        self._buffer = buffer
        self._pool = pool
        self._sampling = build_sampling(spec.rollout, spec.seed)
        self._scorer = GroupScorer(scoring, tokenizer, prompts.by_id, self._scored_group)
        self._saver = ProgressSaver(buffer)
        self._iteration = 0
        self._version = -1
        self._drawn = 0
        self._groups: dict[int, Group] = {}
        self._answers: dict[int, Answer] = {}
        self._scored: dict[int, ScoredGroup] = {}
        self._changed = asyncio.Event()
        self._started_at = 0.0
        self._tokens_before = 0
        self._tokens_at_close = self._standalone_at_close = 0

    @property
    def engines_serving(self) -> int:
        """Engines that may get answers, whatever the phase."""
        return self._pool.count_serving()

    @property
    def complete_groups(self) -> int:
        """Groups whose answers are all generated, in no batch yet."""
        return len(self._scored) + self._scorer.pending

    def count_groups(self) -> dict[str, int]:
        """Groups in no batch yet, by state."""
        return {"open": len(self._groups), "complete": self.complete_groups}

    @property
    def progress(self) -> tuple[int, float]:
        """Tokens generated, and seconds since the start, of the iteration's rollouts; zeros between them."""
        if not self._started_at:
            return 0, 0.0
        return self._pool.tokens_generated - self._tokens_before, time.monotonic() - self._started_at

    @property
    def first_request_at(self) -> float:
        """When the iteration's rollouts really began, which is before their phase; Unix seconds. 0: not yet."""
        return self._pool.first_request_at

    @property
    def finished_lengths(self) -> list[int]:
        """Tokens of each answer that is finished and in no batch yet, those apart that are being scored."""
        scored = [sample.trajectory for group in self._scored.values() for sample in group.samples]
        others = [each for group in self._groups.values() for each in group.trajectories]
        return [each.length for each in (*scored, *others) if each.state != TrajectoryState.UNFINISHED]

    @property
    def unfinished(self) -> int:
        """Answers that are not finished."""
        return len(self._answers)

    def outstanding_tokens(self, expected_length: float) -> float:
        """Tokens still to be generated in this iteration; see answers.outstanding_tokens."""
        return outstanding_tokens(list(self._answers.values()), expected_length)

    def commit(self, version: int) -> None:
        """From now on `version` is the newest; engines too far behind lose what they are at work on."""
        self._version = version
        self._pool.require_version(version - self._spec.elastic.max_staleness)

    async def load(self) -> None:
        """Read what an earlier process left in the replay buffer."""
        self._drawn = await self._buffer.groups_created()
        self._scored = {group.id: group for group in await self._buffer.scored_groups()}
        for group in await self._buffer.open_groups():
            self._add(group, iteration=0)

    async def run(self) -> None:
        """Score and save until cancelled. Raises RewardError or StorageError (in an ExceptionGroup)."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._scorer.run())
            tasks.create_task(self._saver.run())

    async def flush(self) -> None:
        """Save what is not saved yet. Raises StorageError."""
        await self._saver.flush()

    async def start(self, iteration: int) -> None:
        """Hand the iteration's answers to the engines: carried-over ones, then new groups. Again: does nothing."""
        if self._iteration == iteration and self._started_at:
            return
        self._iteration, self._started_at = iteration, time.monotonic()
        self._pool.first_request_at = 0.0
        self._pool.speed.begin()
        self._tokens_before = self._pool.tokens_generated
        self._renew(iteration)
        self._pool.use_engines(ALL_ENGINES)
        await self.prepare(iteration)

    async def prepare(self, iteration: int) -> None:
        """Draw the iteration's new groups. Before `start`, standalone engines may begin with them: while others train.

        Again: does nothing.
        """
        wanted = self._spec.rollout.prompts - len(self._groups) - self.complete_groups
        if wanted > 0:
            await self._draw(iteration, wanted)

    async def finish(self, iteration: int, deadline_seconds: float) -> None:
        """Return when the phase has enough: all answers are settled, or rollout.completePrompts groups are complete, or
        the deadline is over. As long as fewer than algorithm.updatesPerIteration groups are complete, another round
        follows.

        Each round has `deadline_seconds`. Raises NoEngine if no engine served during all of one.
        """
        rounds = 1
        while not await self._finish_round(deadline_seconds):
            log.info("too few groups are complete, another round of rollouts follows", complete=self.complete_groups)
            rounds += 1
            self._renew(iteration, rounds)
        self._pool.use_engines(STANDALONE_ENGINES)

    async def recall(self, grace_seconds: float) -> None:
        """Take back requests that drained engines did not give back within `grace_seconds`."""
        await self._pool.recall(HYBRID_ENGINES, grace_seconds)

    async def close(self, iteration: int, last_iteration: int) -> dict[str, float]:
        """Wait for what drained engines give back, save it, and record the batch. Returns the iteration's metrics."""
        self._pool.use_engines(STANDALONE_ENGINES)
        await self._pool.wait_landed(HYBRID_ENGINES)
        tokens, seconds = self.progress
        all_tokens, standalone_tokens = self._count_since_close()
        self._started_at = 0.0
        await self._scorer.wait_settled()
        groups = sorted(self._scored.values(), key=lambda group: group.id)
        encoded, metrics = await asyncio.to_thread(self._build, iteration, last_iteration, groups)
        for answer in self._answers.values():
            self._saver.note_progress(answer.trajectory)  # those that were aborted have grown
        metrics |= {
            "generated_tokens": float(all_tokens),
            "rollout_seconds": seconds,
            "tokens_per_second": tokens / seconds if seconds else 0.0,
            "inference_tokens": float(standalone_tokens),
            "carried_over": float(len(self._answers)),
        }
        await self._saver.record(iteration, encoded, groups, metrics)
        for group in groups:
            del self._scored[group.id]
        self._renew(iteration + 1)
        return metrics

    def _count_since_close(self) -> tuple[int, int]:
        """Tokens generated since it was called last, and those of them by standalone engines."""
        before = self._tokens_at_close, self._standalone_at_close
        self._tokens_at_close, self._standalone_at_close = self._pool.tokens_generated, self._pool.standalone_tokens
        return self._tokens_at_close - before[0], self._standalone_at_close - before[1]

    def _build(
        self, iteration: int, last_iteration: int, groups: Sequence[ScoredGroup]
    ) -> tuple[bytes, dict[str, float]]:
        batch = build_batch(self._spec, iteration, groups, self._prompts.by_id)
        batch = dataclasses.replace(batch, iterations=last_iteration)
        return batch.encode(), measure_groups(groups, batch)

    async def _finish_round(self, deadline_seconds: float) -> bool:
        """Wait for the end of a round; whether there is enough to train on."""
        needed = self._spec.rollout.complete_prompts or self._spec.rollout.prompts
        served = False
        try:
            async with asyncio.timeout(deadline_seconds):
                while self.complete_groups < needed and not all(a.settled for a in self._answers.values()):
                    served = served or self.engines_serving > 0
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            log.warning("the rollout phase is over by its deadline", complete_groups=self.complete_groups)
            if not (served or self.engines_serving or self.complete_groups):
                raise NoEngine(
                    f"no engine served version {self._version} (or at most "
                    f"{self._spec.elastic.max_staleness} older) during the {deadline_seconds:g} s of "
                    "spec.deadlines.rollout: look at the logs of the inference containers"
                ) from None
        return self.complete_groups >= self._spec.algorithm.updates_per_iteration

    async def _draw(self, iteration: int, count: int) -> None:
        data = self._spec.data
        rates: Mapping[int, float] = await self._buffer.success_rates() if data.sampling == "prioritised" else {}
        chosen = choose_prompts(
            data,
            self._prompts.training,
            count=count,
            iteration=iteration,
            drawn=self._drawn,
            seed=self._spec.seed,
            success_rates=rates,
        )
        self._drawn += count
        texts = {number: self._prompts.by_id[number].text for number in chosen}
        for group in await self._buffer.create_groups(iteration, chosen, self._spec.rollout.group_size, texts=texts):
            self._add(group, iteration)

    def _add(self, group: Group, iteration: int) -> None:
        """Take up a group; with iteration 0 its answers wait for the next start."""
        if group.complete:
            self._scorer.submit(group)
            return
        self._groups[group.id] = group
        prompt = self._prompts.by_id[group.prompt_id].tokens
        budget = self._budget if iteration else 0
        staleness = self._spec.elastic.max_staleness
        answers = [
            Answer(trajectory, prompt, self._sampling, iteration, budget, self._settled, staleness)
            for trajectory in group.trajectories
            if trajectory.state == TrajectoryState.UNFINISHED
        ]
        self._answers.update((answer.trajectory.id, answer) for answer in answers)
        if iteration:
            self._pool.submit(build_works(answers))

    @property
    def _budget(self) -> int:
        return self._spec.rollout.tokens_per_iteration or self._spec.rollout.max_tokens

    def _renew(self, iteration: int, rounds: int = 1) -> None:
        """Give unfinished answers the iteration's budget; those whose old one was spent go back to the engines."""
        spent: list[Answer] = []
        for answer in self._answers.values():
            if answer.flying:
                continue  # it goes on with the budget it has
            waited = not answer.settled
            answer.renew(iteration, rounds * self._budget)
            if not waited and not answer.settled:
                spent.append(answer)
        self._pool.submit(build_works(spent))

    def _settled(self, answer: Answer) -> None:
        trajectory = answer.trajectory
        self._saver.note_progress(trajectory)
        if answer.finished:
            del self._answers[trajectory.id]
            group = self._groups[trajectory.group_id]
            if group.complete:
                del self._groups[group.id]
                self._scorer.submit(group)
        elif answer.iteration < self._iteration:
            # It came back from an earlier iteration's request: this one's budget is untouched.
            answer.renew(self._iteration, self._budget)
            self._pool.submit([[answer]])
        self._changed.set()

    def _scored_group(self, group: ScoredGroup) -> None:
        self._scored[group.id] = group
        self._saver.note_scores(group.samples)
        note_scores(group.samples)
