"""From what happened to a verdict. Pure."""

from tandem_core.sandbox.messages import Limits, Verdict

from tandem_sandbox.job import Outcome
from tandem_sandbox.run_watch import Stop

_FIRST_SIGNAL = 128


def verdict_of(outcome: Outcome, limits: Limits) -> tuple[Verdict, str]:
    """The verdict on a run, and why; WA and CE are for others to find."""
    if outcome.stop == Stop.OUTPUT:
        return Verdict.OLE, f"it wrote more than {limits.output_bytes} bytes"
    if outcome.out_of_memory or outcome.stop == Stop.MEMORY:
        return Verdict.MLE, f"it needed more than {limits.memory_bytes} bytes of memory"
    match outcome.stop:
        case Stop.CPU:
            return Verdict.TLE, f"it used more than {limits.cpu_seconds:g} s of processor time"
        case Stop.WALL:
            return Verdict.TLE, f"it had not ended after {limits.wall_seconds:g} s by the clock"
        case Stop.IDLE:
            return Verdict.TLE, f"it waited for something that does not come, for {outcome.wall_seconds:.1f} s"
        case Stop.STARVED | Stop.CANCELLED:
            return Verdict.IE, f"it was ended by the sandbox ({outcome.stop})"
    code = outcome.exit_code
    if code == 0:
        return Verdict.OK, ""
    if code is not None and code > _FIRST_SIGNAL:
        return Verdict.RE, f"it ended by signal {code - _FIRST_SIGNAL}"
    return Verdict.RE, f"it ended with exit code {code}"
