"""Where a job's replay buffer is."""

import os
from collections.abc import Mapping

from tandem_core.environment import PodEnvironment
from tandem_core.errors import TandemError
from tandem_core.job import RLJob

from tandem_rollout.storage.replay_buffer import sqlite_url

DATABASE_VARIABLE = "TANDEM_DATABASE_URL"
"""Address of the replay buffer where spec.storage is not sqlite."""
REPLAY_FILE = "replay.sqlite"
"""The replay buffer's file in TANDEM_DATA_DIR."""


def replay_url(job: RLJob, pod: PodEnvironment, environment: Mapping[str, str] = os.environ) -> str:
    """The replay buffer's address; raises TandemError if the variable that holds it is missing."""
    if job.spec.storage.kind == "sqlite":
        pod.data_dir.mkdir(parents=True, exist_ok=True)
        return sqlite_url(pod.data_dir / REPLAY_FILE)
    url = environment.get(DATABASE_VARIABLE, "").strip()
    if not url:
        raise TandemError(
            f"spec.storage is postgresql, but {DATABASE_VARIABLE} is empty: the Secret "
            f"{job.spec.storage.url_secret!r} must have the key url"
        )
    return url
