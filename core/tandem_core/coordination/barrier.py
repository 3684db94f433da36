"""Waiting until every member has acknowledged a phase."""

from collections.abc import Collection, Mapping

from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.records import Ack
from tandem_core.errors import TandemError


class BarrierTimeout(TandemError):
    """Some members did not acknowledge in time; `missing` names them, `acks` holds the others'."""

    def __init__(self, message: str, missing: tuple[str, ...], acks: dict[str, Ack]) -> None:
        super().__init__(message)
        self.missing = missing
        self.acks = acks


class AckError(TandemError):
    """A member acknowledged that it could not do its part."""

    def __init__(self, ack: Ack) -> None:
        super().__init__(f"{ack.member} failed in {ack.phase} of iteration {ack.iteration}: {ack.error}")
        self.ack = ack


async def wait_for_acks(
    acks: Mirror[Ack], expected: Collection[str], timeout_seconds: float, *, below: str = ""
) -> dict[str, Ack]:
    """The acknowledgements of all `expected` members, by member.

    `acks` mirrors the prefix of one phase; or more, and then `below` is the phase's part of the keys. A mirror that was
    there before the acknowledgements is faster: etcd tells a new watch of earlier changes only after up to 100 ms.
    Raises AckError as soon as a member says that it failed, and BarrierTimeout, which names who is missing, after
    `timeout_seconds`.
    """
    wanted = {f"{below}{name}": name for name in expected}

    def complete(values: Mapping[str, Ack]) -> bool:
        # After each of 1,000 acknowledgements all 1,000 are looked at: this way in a fifth of a plain loop's time.
        answered = list(filter(None, map(values.get, wanted)))
        for ack in answered:
            if ack.error:
                raise AckError(ack)
        return len(answered) == len(wanted)

    try:
        await acks.wait_for(complete, timeout_seconds)
    except TimeoutError as error:
        missing = tuple(sorted(name for key, name in wanted.items() if key not in acks.values))
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise BarrierTimeout(
            f"{len(missing)} of {len(wanted)} members did not answer within {timeout_seconds:g} s: {shown}. "
            "Look at their logs; if they only need longer, raise spec.deadlines",
            missing,
            {name: acks.values[key] for key, name in wanted.items() if key in acks.values},
        ) from error
    return {name: acks.values[key] for key, name in wanted.items()}
