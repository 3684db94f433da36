"""When a running program is to be ended. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from tandem_core.sandbox.messages import Limits

_IDLE_SHARE = 0.05  # less of one processor than this counts as idle: ten busy neighbours leave a program more
_IDLE_EXTRA_SECONDS = 2.0
_FULL_SHARE = 0.95
_PATIENCE = 10.0  # times the processor time, before the machine counts as too busy
_PATIENCE_EXTRA_SECONDS = 30.0
_SHORTEST_WAIT_SECONDS = 0.002
_LOOK_SECONDS = 0.05  # a program fills at most some hundred megabytes in this time


class Stop(StrEnum):
    """Why a program was ended."""

    CPU = "cpu"
    MEMORY = "memory"
    """Its time ran out while the kernel looked for memory to give it."""
    WALL = "wall"
    IDLE = "idle"
    STARVED = "starved"
    """Not its own fault: it would have gone on if the machine had let it."""
    OUTPUT = "output"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Moment:
    """A look at a running program."""

    wall_seconds: float
    cpu_seconds: float


_MERCY = Moment(wall_seconds=15.0, cpu_seconds=3.0)


def idle_window_seconds(limits: Limits) -> float:
    """For how long a program without a limit by the clock may do next to nothing."""
    return limits.cpu_seconds + _IDLE_EXTRA_SECONDS


def plan_stop(limits: Limits, now: Moment, window_start: Moment) -> Stop | None:
    """Whether the program is to be ended, and why; `window_start` is when the window of idleness began."""
    if now.cpu_seconds >= limits.cpu_seconds:
        return Stop.CPU
    if limits.wall_seconds is not None:
        return Stop.WALL if now.wall_seconds >= limits.wall_seconds else None
    if now.wall_seconds >= _PATIENCE * limits.cpu_seconds + _PATIENCE_EXTRA_SECONDS:
        return Stop.STARVED
    elapsed = now.wall_seconds - window_start.wall_seconds
    if elapsed >= idle_window_seconds(limits):
        worked = now.cpu_seconds - window_start.cpu_seconds
        return Stop.IDLE if worked < _IDLE_SHARE * elapsed else None
    return None


def blame_memory(stop: Stop, held_bytes: int, limits: Limits) -> Stop:
    """With its memory full, a program reads its own code again and again before the kernel ends it."""
    full = held_bytes >= _FULL_SHARE * limits.memory_bytes
    return Stop.MEMORY if full and stop in (Stop.CPU, Stop.WALL, Stop.IDLE, Stop.STARVED) else stop


def plan_window(limits: Limits, now: Moment, window_start: Moment) -> Moment:
    """Where the window of idleness begins from now on."""
    passed = now.wall_seconds - window_start.wall_seconds >= idle_window_seconds(limits)
    return now if passed else window_start


def ignores_interrupt(interrupted: Moment, now: Moment) -> bool:
    """Whether a cell that was interrupted then goes on nevertheless."""
    worked = now.cpu_seconds - interrupted.cpu_seconds
    return worked >= _MERCY.cpu_seconds or now.wall_seconds - interrupted.wall_seconds >= _MERCY.wall_seconds


def plan_wait_seconds(limits: Limits, now: Moment, window_start: Moment, *, watched: bool = False) -> float:
    """How long nothing can be due: processor time cannot grow faster than on all its processors.

    A program that is `watched` can exceed its limits at any time: it is looked at soon, as it may end soon, and often.
    """
    waits = [max(_SHORTEST_WAIT_SECONDS, min(now.wall_seconds, _LOOK_SECONDS))] if watched else []
    waits += [(limits.cpu_seconds - now.cpu_seconds) / limits.cpus]
    if limits.wall_seconds is not None:
        waits.append(limits.wall_seconds - now.wall_seconds)
    else:
        waits.append(window_start.wall_seconds + idle_window_seconds(limits) - now.wall_seconds)
        waits.append(_PATIENCE * limits.cpu_seconds + _PATIENCE_EXTRA_SECONDS - now.wall_seconds)
    return max(min(waits), _SHORTEST_WAIT_SECONDS)
