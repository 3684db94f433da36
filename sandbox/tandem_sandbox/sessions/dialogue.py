"""What is said over the pipes of a session's container. Blocks: to be called in threads, by one at a time."""

import itertools
import os
import select
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import CellLimits, Limits, SessionLimits
from tandem_core.sandbox.sessions import CellOutput, StreamOutput

from tandem_sandbox.container import Container
from tandem_sandbox.control_group import ControlGroup, Usage
from tandem_sandbox.run_watch import (
    Moment,
    Stop,
    blame_memory,
    ignores_interrupt,
    plan_stop,
    plan_wait_seconds,
    plan_window,
)
from tandem_sandbox.sessions.words import (
    INTERRUPT,
    Died,
    Done,
    Failed,
    Overflow,
    Ready,
    Shown,
    Word,
    build_run,
    parse_word,
)
from tandem_sandbox.threads import Cancellation

START_SECONDS = 120.0
"""For a kernel to start, on a machine that has much else to do."""
_FRAME_BYTES = 1 << 20  # of the driver's own words, beside the outputs of a cell
_MOST_UNASKED_SECONDS = 60.0  # of processor time between two cells
_SAY_SECONDS = 10.0
_INTERRUPTED_WAIT_SECONDS = 0.05
_AGAIN_SECONDS = 1.0


class KernelError(TandemError):
    """A session cannot be made: its kernel does not start."""


@dataclass(frozen=True, slots=True)
class CellOutcome:
    """What happened in a cell."""

    outputs: Sequence[CellOutput]
    done: Done | None
    """None: it did not come to its end."""
    stop: Stop | None
    """Why it was interrupted, or its session ended."""
    out_of_memory: bool
    """Whether the kernel of the machine ended a process because memory was full."""
    cpu_seconds: float
    wall_seconds: float
    memory_bytes: int
    """Most that the session has used so far."""


class Dialogue:
    """A session's conversation. `over` says why there is no more of it."""

    def __init__(self, container: Container, group: ControlGroup, limits: SessionLimits) -> None:
        self._container = container
        self._group = group
        self._limits = limits
        self._numbers = itertools.count(1)
        self._unasked_from = 0.0
        self._heard_bytes = 0
        container.stdout.most_bytes = _FRAME_BYTES
        self.over = ""
        """Why the session cannot go on; empty: it can."""

    def wait_ready(self, cancellation: Cancellation) -> None:
        """Until the kernel answers. Raises KernelError."""
        deadline = time.monotonic() + START_SECONDS
        while not self.over:
            if time.monotonic() > deadline or self._cancelled(cancellation):
                self.over = f"its kernel did not start within {START_SECONDS:g} s"
            for word in self._listen(0.1, cancellation):
                if isinstance(word, Ready):
                    self._unasked_from = self._group.observe_cpu_seconds()
                    return
                if isinstance(word, Failed):
                    self.over = word.reason
        raise KernelError(self.over)

    def run(self, code: str, limits: CellLimits, cancellation: Cancellation) -> CellOutcome:
        """Run a cell until it ends, or is ended, with its session if it does not obey."""
        before, started_at = self._observe_usage(), time.monotonic()
        cell = _RunningCell(next(self._numbers), Limits(**self._limits.model_dump(), **limits.model_dump()))
        self._heard_bytes = 0
        self._container.stdout.most_bytes = limits.output_bytes + _FRAME_BYTES
        self._say(build_run(cell.number, code, limits.output_bytes))
        while not self.over and cell.done is None:
            wait_seconds = cell.plan_wait_seconds(watched=self._group.watched)
            for word in self._listen(wait_seconds, cancellation if cell.interrupted is None else None):
                self._hear(word, cell)
            spent = self._group.observe_cpu_seconds() - before.cpu_seconds
            cell.now = Moment(time.monotonic() - started_at, spent)
            if not self.over and cell.done is None:
                self._judge(cell, cancelled=self._cancelled(cancellation))
        usage = self._observe_usage()
        self._unasked_from = usage.cpu_seconds
        return cell.build_outcome(before, usage, time.monotonic() - started_at)

    def look(self) -> None:
        """Between cells: whether it can still go on."""
        for word in self._listen(0.0, None):
            if isinstance(word, Died):
                self.over = _describe_death(word)
        if self._group.watched and self._group.observe_held_bytes() > self._limits.memory_bytes:
            self.over = f"it needed more than {self._limits.memory_bytes} bytes of memory"
        if self._group.observe_cpu_seconds() - self._unasked_from > _MOST_UNASKED_SECONDS:
            self.over = f"between cells it used more than {_MOST_UNASKED_SECONDS:g} s of processor time"

    def kill(self) -> None:
        """End all its processes; may be called while another thread runs a cell, which then ends."""
        self._container.kill()

    def _observe_usage(self) -> Usage:
        """With a look first, for groups that know only what was seen."""
        self._group.observe_cpu_seconds()
        if self._group.watched:
            self._group.observe_held_bytes()
        return self._group.observe_usage()

    def _hear(self, word: Word, cell: "_RunningCell") -> None:
        match word:
            case Shown() if word.cell == cell.number:
                cell.outputs.append(word.output)
            case Overflow() if word.cell == cell.number and cell.interrupted is None:
                cell.note_interrupt(Stop.OUTPUT)
            case Done() if word.cell == cell.number:
                cell.done = word
            case Died():
                self.over = _describe_death(word)

    def _judge(self, cell: "_RunningCell", *, cancelled: bool) -> None:
        """Interrupt it if it has had enough, and end the session if that does not help."""
        if self._group.watched and self._group.observe_held_bytes() > self._limits.memory_bytes:
            cell.stop = Stop.MEMORY
            self.over = f"it needed more than {self._limits.memory_bytes} bytes of memory"
        elif cell.interrupted is not None:
            if ignores_interrupt(cell.interrupted, cell.now):
                self.over = "a cell went on although it was interrupted"
            elif cell.now.wall_seconds >= cell.told_seconds + _AGAIN_SECONDS:
                # A kernel that had not yet begun the cell has not taken notice.
                cell.told_seconds = cell.now.wall_seconds
                self._say(INTERRUPT)
        elif cancelled:
            self._interrupt(cell, Stop.CANCELLED)
        elif stop := plan_stop(cell.limits, cell.now, cell.window):
            self._interrupt(cell, blame_memory(stop, self._group.observe_held_bytes(), cell.limits))
        cell.window = plan_window(cell.limits, cell.now, cell.window)

    def _interrupt(self, cell: "_RunningCell", stop: Stop) -> None:
        cell.note_interrupt(stop)
        self._say(INTERRUPT)

    def _listen(self, seconds: float, cancellation: Cancellation | None) -> Iterator[Word]:
        """What the driver says, after at most so long; `over` is set if that was its last word."""
        container = self._container
        poll = select.poll()
        for source in [stream.reader for stream in (container.stdout, container.stderr) if not stream.ended]:
            poll.register(source, select.POLLIN)
        if cancellation is not None:
            poll.register(cancellation.descriptor, select.POLLIN)
        poll.poll(seconds * 1000)
        container.stderr.discard()
        container.stdout.read()
        lines = self._take_lines()
        if container.stdout.overflowed or self._heard_bytes > container.stdout.most_bytes:
            self.over = "it wrote past its kernel, and too much"
            return
        for line in lines:
            word = parse_word(line)
            if word is None:
                self.over = "something but the driver spoke on its output"
                return
            yield word
        if container.stdout.ended and not self.over:
            self.over = "its processes have ended"

    def _take_lines(self) -> list[bytes]:
        data = self._container.stdout.data
        end = data.rfind(b"\n") + 1
        lines = bytes(data[:end]).split(b"\n")[:-1]
        del data[:end]
        self._heard_bytes += end
        return lines

    def _say(self, words: bytes) -> None:
        """A driver that is alive reads at once."""
        view, deadline = memoryview(words), time.monotonic() + _SAY_SECONDS
        poll = select.poll()
        poll.register(self._container.control, select.POLLOUT)
        while view and not self.over:
            if time.monotonic() > deadline:
                self.over = "it does not listen any more"
                return
            poll.poll(100)
            try:
                view = view[os.write(self._container.control, view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self.over = "its processes have ended"

    def _cancelled(self, cancellation: Cancellation) -> bool:
        poll = select.poll()
        poll.register(cancellation.descriptor, select.POLLIN)
        return bool(poll.poll(0))


class _RunningCell:
    """What is known of a cell so far."""

    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.limits = limits
        self.now = self.window = Moment(0.0, 0.0)
        self.interrupted: Moment | None = None
        self.told_seconds = 0.0
        """When it was last interrupted."""
        self.stop: Stop | None = None
        self.done: Done | None = None
        self.outputs: list[CellOutput] = []

    def note_interrupt(self, stop: Stop) -> None:
        """It is interrupted now."""
        self.stop, self.interrupted, self.told_seconds = stop, self.now, self.now.wall_seconds

    def plan_wait_seconds(self, *, watched: bool) -> float:
        """How long nothing can be due."""
        if self.interrupted is not None:
            return _INTERRUPTED_WAIT_SECONDS
        return plan_wait_seconds(self.limits, self.now, self.window, watched=watched)

    def build_outcome(self, before: Usage, after: Usage, wall_seconds: float) -> CellOutcome:
        """At its end."""
        return CellOutcome(
            outputs=join_streams(self.outputs),
            done=self.done,
            stop=self.stop,
            out_of_memory=after.out_of_memory > before.out_of_memory,
            cpu_seconds=after.cpu_seconds - before.cpu_seconds,
            wall_seconds=wall_seconds,
            memory_bytes=after.memory_bytes,
        )


def join_streams(outputs: Sequence[CellOutput]) -> list[CellOutput]:
    """Neighbouring texts of one stream become one output."""
    joined: list[CellOutput] = []
    for _, group in itertools.groupby(outputs, lambda each: each.name if isinstance(each, StreamOutput) else each):
        several = list(group)
        first = several[0]
        if isinstance(first, StreamOutput):
            texts = [each.text for each in several if isinstance(each, StreamOutput)]
            joined.append(StreamOutput(name=first.name, text="".join(texts)))
        else:
            joined += several
    return joined


def _describe_death(word: Died) -> str:
    return f"its kernel has died: {word.reason}" if word.reason else "its kernel has died"
