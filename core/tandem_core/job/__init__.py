"""The RLJob and everything in it."""

from tandem_core.job.load import JobFileError, dump_job, load_job, parse_job
from tandem_core.job.rljob import API_GROUP, API_VERSION, RLJob, RLJobSpec

__all__ = ["API_GROUP", "API_VERSION", "JobFileError", "RLJob", "RLJobSpec", "dump_job", "load_job", "parse_job"]
