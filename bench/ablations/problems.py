"""The problems, made by rule: each is a row of a JSON lines file."""

import json
import random
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

type Row = dict[str, str | int]

_PROBLEMS = 1400
"""For reinforcement learning and evaluation: few enough that each comes back several times, as prioritised sampling
needs. The rest is only for the warm-up: no run is evaluated on what the base model imitated."""


def make_problems(generator: random.Random) -> Iterator[Row]:
    """The last digit of the sum of three to six digits. `reasoning` is what the warm-up imitates: the last digits of
    the running sums, once to three times, then the answer."""
    for _ in range(12000):
        terms = [generator.randrange(10) for _ in range(generator.randint(3, 6))]
        digits = [total % 10 for total in accumulate(terms)]
        working = "".join(map(str, digits[1:]))
        yield {
            "prompt": "+".join(map(str, terms)) + "=",
            "answer": str(digits[-1]),
            "reasoning": " again ".join([working] * generator.randint(1, 3)) + f" so {digits[-1]}",
            "difficulty": len(terms),
        }


def write_problems(directory: Path) -> None:
    """problems.jsonl and warmup.jsonl in `directory`: different problems, in random order."""
    generator = random.Random(0)
    rows = list({row["prompt"]: row for row in make_problems(generator)}.values())
    generator.shuffle(rows)
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("problems", rows[:_PROBLEMS]), ("warmup", rows[_PROBLEMS:])):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
