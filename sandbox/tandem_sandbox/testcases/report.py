"""What became of all problems, for people and for programs."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_sandbox.testcases.decision import Decision


@dataclass(frozen=True, slots=True)
class Report:
    """Names of problems with what became of them, in the order of the input."""

    decisions: Sequence[tuple[str, Decision]]

    @property
    def kept(self) -> int:
        """Problems that are kept."""
        return sum(decision.drop is None for _, decision in self.decisions)

    def count_lines(self) -> list[str]:
        """The whole in a few sentences."""
        problems = Counter(decision.drop for _, decision in self.decisions if decision.drop is not None)
        cases = sum(len(decision.cases) for _, decision in self.decisions if decision.drop is None)
        losses = sum((Counter(decision.losses) for _, decision in self.decisions), Counter())
        lines = [f"{self.kept} of {len(self.decisions)} problems are kept, with {cases} cases"]
        lines += [f"  {count} dropped: {drop}" for drop, count in problems.most_common()]
        if losses:
            lines.append(f"{losses.total()} cases of all problems are dropped")
            lines += [f"  {count}: {loss}" for loss, count in losses.most_common()]
        return lines

    def to_json(self) -> str:
        """A JSON object with `problems`, an object each."""
        problems = [
            {
                "id": name,
                "kept": decision.drop is None,
                "reason": describe_drop(decision),
                "cases": len(decision.cases),
                "dropped_cases": {loss.name.lower(): count for loss, count in decision.losses.items()},
                "passing_references": len(decision.passing),
            }
            for name, decision in self.decisions
        ]
        return json.dumps({"kept": self.kept, "problems": problems}, indent=2) + "\n"


def describe_drop(decision: Decision) -> str:
    """Why it is dropped, in a sentence; empty if it is kept."""
    if decision.drop is None:
        return ""
    return f"{decision.drop} ({decision.detail})" if decision.detail else str(decision.drop)
