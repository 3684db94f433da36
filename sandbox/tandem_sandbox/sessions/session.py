"""One session, and what becomes of its cells."""

import asyncio
from datetime import UTC, datetime, timedelta

from tandem_core.sandbox.messages import CellLimits, Limits, Verdict
from tandem_core.sandbox.sessions import CellResult, ErrorOutput, SessionDescription, SessionRequest

from tandem_sandbox.images.image import Image
from tandem_sandbox.job import Job, JobFile, Outcome
from tandem_sandbox.lane import Lane
from tandem_sandbox.languages import COMPILE_ENVIRONMENT
from tandem_sandbox.sessions.dialogue import START_SECONDS, CellOutcome, Dialogue
from tandem_sandbox.sessions.words import DRIVER
from tandem_sandbox.verdicts import verdict_of

_OWN_PROCESSES = 32  # of the kernel and the driver, with their threads
_MOST_SECONDS = 3600.0  # that one process can use in all its cells, where no control group counts them


class Session:
    """A kernel in a lane of its own."""

    def __init__(self, id: str, request: SessionRequest, image: Image, lane: Lane, dialogue: Dialogue) -> None:
        self.id = id
        self.lane = lane
        self.dialogue = dialogue
        self.busy = False
        """Whether a cell runs, or waits for its turn."""
        self.speaking = asyncio.Lock()
        """Held by who uses the dialogue or the lane."""
        self.over = ""
        """Why it has ended, or is about to; empty: it goes on."""
        self.ending: asyncio.Task[None] | None = None
        """Takes it away."""
        self._request = request
        self._image = image
        self._created = self._used = datetime.now(UTC)
        self._cells = 0

    def describe(self) -> SessionDescription:
        """For clients."""
        return SessionDescription(
            id=self.id,
            kernel=self._request.kernel,
            image=self._image.name,
            created=self._created,
            expires=self._expires,
            cells=self._cells,
            busy=self.busy,
        )

    def plan_end(self, now: datetime) -> str:
        """Why it is to end; empty: it is not."""
        if now >= self._expires:
            return f"its time to live, {self._request.ttl_seconds:g} s, is over"
        if not self.busy and now >= self._used + timedelta(seconds=self._request.idle_seconds):
            return f"no cell has run for {self._request.idle_seconds:g} s"
        return self.dialogue.over

    def note_cell(self) -> None:
        """A cell has ended."""
        self._cells += 1
        self._used = datetime.now(UTC)

    def build_result(self, outcome: CellOutcome, cell: CellLimits) -> CellResult:
        """What is told of a cell with these limits."""
        limits = Limits(**self._request.limits.model_dump(), **cell.model_dump())
        return build_result(outcome, limits, self.dialogue.over)

    @property
    def _expires(self) -> datetime:
        return self._created + timedelta(seconds=self._request.ttl_seconds)


def build_job(request: SessionRequest, image: Image) -> Job:
    """The driver, which starts the kernel."""
    held = request.limits.model_copy(update={"processes": request.limits.processes + _OWN_PROCESSES})
    return Job(
        command=("python3", "-I", "-c", DRIVER, request.kernel, f"{START_SECONDS:g}"),
        limits=Limits(**held.model_dump(), cpu_seconds=_MOST_SECONDS),
        files={path: JobFile(file.data, file.executable) for path, file in request.files.items()},
        environment={**image.environment, **COMPILE_ENVIRONMENT},
    )


def build_result(outcome: CellOutcome, limits: Limits, over: str) -> CellResult:
    """What is told of a cell; `over` says why its session cannot go on, if so. Pure."""
    verdict, detail = _judge(outcome, limits, over)
    if over:
        detail = f"{detail}; the session is over ({over}): make another one".removeprefix("; ")
    return CellResult(
        verdict=verdict,
        detail=detail,
        alive=not over,
        outputs=tuple(outcome.outputs),
        execution_count=outcome.done.execution_count if outcome.done is not None else None,
        cpu_seconds=outcome.cpu_seconds,
        wall_seconds=outcome.wall_seconds,
        memory_bytes=outcome.memory_bytes,
    )


def _judge(outcome: CellOutcome, limits: Limits, over: str) -> tuple[Verdict, str]:
    """As of a program that ended with exit code 1 if the cell raised an error, or never came to its end."""
    failed = outcome.done is None or not outcome.done.ok
    verdict, detail = verdict_of(
        Outcome(
            exit_code=int(failed) if outcome.stop is None else None,
            stop=outcome.stop,
            stdout=b"",
            stderr=b"",
            cpu_seconds=outcome.cpu_seconds,
            wall_seconds=outcome.wall_seconds,
            memory_bytes=outcome.memory_bytes,
            out_of_memory=outcome.out_of_memory,
        ),
        limits,
    )
    if verdict != Verdict.RE:
        return verdict, detail
    raised = next((each for each in outcome.outputs if isinstance(each, ErrorOutput)), None)
    if raised is not None:
        return verdict, f"it raised {raised.ename}: {raised.evalue}"
    return verdict, "" if over else "its kernel says that it failed"
