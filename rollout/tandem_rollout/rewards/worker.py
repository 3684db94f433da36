"""The process that scores: `python -m tandem_rollout.rewards.worker`, started and ended by the pool.

Reads pickled frames from standard input: first the RLJobSpec, then (scorer, answers). Writes one JSON line for being
ready and one for each answer.
"""

import ctypes
import json
import os
import pickle
import resource
import signal
import struct
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from io import RawIOBase
from typing import Any, BinaryIO

from tandem_core.errors import TandemError
from tandem_core.job import RLJobSpec
from tandem_core.job.rewards import FunctionReward

from tandem_rollout.rewards.answers import AnsweredPrompt, LocalScorer, ReferenceUnusable
from tandem_rollout.rewards.local import build_local_scorer, needs_process, scorer_name, wrong_when_failing

HEADER = struct.Struct("<I")
"""Length of the frame that follows."""
_MEMORY_BYTES = 8 << 30
_HELD_SECONDS = 0.005
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Score until standard input ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a hung worker must not outlive the master
    replies = open(os.dup(sys.stdout.fileno()), "wb", buffering=0)  # noqa: SIM115 - open until the end
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a reward function prints is not a reply
    spec: RLJobSpec = _read_frame(sys.stdin.buffer)
    try:
        scorers = _build_scorers(spec)
    except TandemError as error:
        _reply(replies, {"failure": str(error)})
        return
    _reply(replies, {"ready": True})
    while (request := _read_frame(sys.stdin.buffer)) is not None:
        name, answers = request
        _score_all(*scorers[name], answers, replies)


def _build_scorers(spec: RLJobSpec) -> Mapping[str, tuple[LocalScorer, int]]:
    """Scorer and number of attempts by name: a user's function may have failed by chance."""
    rewards = [reward for reward in spec.rewards.scorers if needs_process(reward)]
    scorers = {
        scorer_name(reward): (build_local_scorer(reward, spec), 1 if wrong_when_failing(reward) else 2)
        for reward in rewards
    }
    if not any(isinstance(reward, FunctionReward) for reward in rewards):
        # Answers such as 9**9**9 make sympy ask for all memory there is. A user's function may need more.
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    return scorers


def _score_all(scorer: LocalScorer, attempts: int, answers: Sequence[AnsweredPrompt], replies: RawIOBase) -> None:
    """Replies are held back for some milliseconds: waking the master for each would cost more than the scoring."""
    held: list[dict[str, Any]] = []
    flushed_at = time.monotonic()
    for answered in answers:
        held.append(_score(scorer, answered, attempts))
        if time.monotonic() - flushed_at > _HELD_SECONDS:
            _reply(replies, *held)
            held, flushed_at = [], time.monotonic()
    _reply(replies, *held)


def _score(scorer: LocalScorer, answered: AnsweredPrompt, attempts: int) -> dict[str, Any]:
    try:
        return {"score": scorer.score(answered)}
    except ReferenceUnusable as error:
        return {"failure": str(error), "reference": True}
    except Exception as error:  # scorers are foreign code: the pool decides what a failure means
        if attempts > 1:
            return _score(scorer, answered, attempts - 1)
        return {"failure": "".join(traceback.format_exception_only(error)).strip()}


def _read_frame(stream: BinaryIO) -> Any:
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return pickle.loads(stream.read(*HEADER.unpack(header)))  # noqa: S301 - from the master that started us


def _reply(stream: RawIOBase, *replies: dict[str, Any]) -> None:
    data = memoryview("".join(json.dumps(reply) + "\n" for reply in replies).encode())
    while data:
        data = data[stream.write(data) :]


if __name__ == "__main__":
    main()
