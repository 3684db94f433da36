"""The RLJob and everything in it."""

from tandem_core.job.load import JobFileError, dump_job, load_job, parse_job
from tandem_core.job.rljob import API_GROUP, API_VERSION, RLJob, RLJobSpec
from tandem_core.job.status import Condition, RLJobStatus

__all__ = [
    "API_GROUP",
    "API_VERSION",
    "Condition",
    "JobFileError",
    "RLJob",
    "RLJobSpec",
    "RLJobStatus",
    "dump_job",
    "load_job",
    "parse_job",
]
