"""Where jobs are read from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tandem_rollout.storage.history import SampleRecord

from tandem_local.inspection.facts import JobFacts
from tandem_local.inspection.redaction import Redactor


@dataclass(frozen=True, slots=True)
class Collection:
    """All that `diagnose` puts into its file."""

    facts: JobFacts
    redactor: Redactor
    """Knows the secrets that could be read."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """By file name; in logs secrets may still be."""


class JobSource(Protocol):
    """One machine, or a cluster. Methods raise TandemError, which lists the jobs there are for one that is not."""

    def observe(self, name: str) -> JobFacts:
        """All that is known of a job but its logs."""

    def list_jobs(self) -> list[JobFacts]:
        """Of every job what is known at once; pods, Events and etcd are left out."""

    def read_samples(self, name: str, iteration: int | None, limit: int) -> tuple[SampleRecord, ...]:
        """At most `limit` answers that were trained on in `iteration`; None: in the newest one."""

    def collect(self, name: str, log_lines: int) -> Collection:
        """Everything of a job, with at most `log_lines` of each log."""
