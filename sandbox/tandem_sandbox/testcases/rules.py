"""How many test cases, and how strict. Imports nothing heavy: the command's help shows these numbers."""

from dataclasses import dataclass

from tandem_core.errors import TandemError

CHECKERS = ("tokens", "exact", "floats")


@dataclass(frozen=True, slots=True)
class Rules:
    """The defaults are those of Kimi k1.5, section 2.3.4. Raises TandemError if they contradict each other."""

    cases: int = 50
    """Inputs that a generator makes for a problem."""
    references: int = 10
    """Reference solutions of a problem that are used: the first ones."""
    agree: int = 7
    """A case is kept if so many references give the same output."""
    passing: int = 9
    """A problem is kept if so many references pass all its kept cases."""
    least_cases: int = 1
    """A problem is kept if it has so many kept cases."""
    seed: int = 0
    """Seed of the generators."""
    checker: str = "tokens"
    """When two outputs are the same: tokens, exact or floats, as in the reward `code`."""
    cpu_seconds: float = 10.0
    """Processor time of each run, of generators and references."""
    memory_bytes: int = 512 << 20
    """Memory of each run."""

    def __post_init__(self) -> None:
        for name, value, most in (
            ("cases", self.cases, 10_000),
            ("references", self.references, 256),
            ("agree", self.agree, self.references),
            ("passing", self.passing, self.references),
            ("least-cases", self.least_cases, self.cases),
        ):
            if not 1 <= value <= most:
                raise TandemError(f"--{name} is {value}: it must be from 1 to {most}")
        if self.checker not in CHECKERS:
            raise TandemError(f"--checker is {self.checker!r}: it must be one of {', '.join(CHECKERS)}")
        if not 0 < self.cpu_seconds <= 3600:
            raise TandemError(f"--cpu-seconds is {self.cpu_seconds:g}: it must be above 0, and at most 3600")
        if self.memory_bytes < 4 << 20:
            raise TandemError(f"the memory of a run is {self.memory_bytes} bytes: it must be at least 4 MiB")
