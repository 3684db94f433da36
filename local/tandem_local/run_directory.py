"""Everything that a run leaves on disk, below TANDEM_HOME/runs/<job>/."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from tandem_core.errors import TandemError, is_out_of_space

from tandem_local.run_state import RunState

HOME_VARIABLE = "TANDEM_HOME"
_OWN_DIRECTORY = 0o700  # it holds the job's token and key


class RunNotFound(TandemError):
    """No run of that name, or several to choose from."""


@dataclass(frozen=True)
class RunDirectory:
    """The directory of the run of one job."""

    path: Path

    @property
    def name(self) -> str:
        """The job's name."""
        return self.path.name

    @property
    def job_file(self) -> Path:
        """The resolved job, uid included."""
        return self.path / "job.yaml"

    @property
    def objects_file(self) -> Path:
        """The Kubernetes objects that are run; without the token."""
        return self.path / "objects.yaml"

    @property
    def state_file(self) -> Path:
        """What the runner says about it."""
        return self.path / "state.json"

    @property
    def token_file(self) -> Path:
        """The bearer token of the job's HTTP APIs."""
        return self.path / "token"

    @property
    def certificate(self) -> Path:
        """The directory with the certificate of a job with TLS."""
        return self.path / "tls"

    @property
    def logs(self) -> Path:
        """logs/<pod>/<container>.log"""
        return self.path / "logs"

    @property
    def runner_log(self) -> Path:
        """What the runner of a detached run prints."""
        return self.path / "runner.log"

    @property
    def etcd(self) -> Path:
        """etcd's data."""
        return self.path / "etcd"

    @property
    def report_file(self) -> Path:
        """The HTML report."""
        return self.path / "report.html"

    def claim(self, name: str) -> Path:
        """The directory of a PersistentVolumeClaim."""
        return self.path / "volumes" / "claims" / name

    def read_state(self) -> RunState | None:
        """The last state; None: there is none, or none that can be read."""
        try:
            return RunState.model_validate_json(self.state_file.read_bytes())
        except (OSError, ValidationError):
            return None

    def write_state(self, state: RunState) -> None:
        """Replace the state at once: readers see the old or the new one. On a full disk the old one stays."""
        temporary = self.state_file.with_suffix(".tmp")
        try:
            temporary.write_text(state.model_dump_json(indent=1))
            temporary.replace(self.state_file)
        except OSError as error:
            if not is_out_of_space(error):
                raise

    def make(self) -> None:
        """Make it and the directory of logs, readable by the user alone."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.path.chmod(_OWN_DIRECTORY)
        self.logs.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Remove it with all that is in it, checkpoints included."""
        shutil.rmtree(self.path)


def tandem_home(environment: Mapping[str, str] = os.environ) -> Path:
    """$TANDEM_HOME, or ~/.tandem."""
    named = environment.get(HOME_VARIABLE)
    return Path(named).absolute() if named else Path.home() / ".tandem"


def list_runs(home: Path) -> list[RunDirectory]:
    """All runs with a state, the newest first."""
    runs = [(RunDirectory(path), RunDirectory(path).read_state()) for path in (home / "runs").glob("*")]
    known = [(state.started_at, run) for run, state in runs if state is not None]
    return [run for _, run in sorted(known, key=lambda item: item[0], reverse=True)]


def find_run(home: Path, name: str | None) -> RunDirectory:
    """The run of job `name`; without a name the newest one. Raises RunNotFound that lists what there is."""
    runs = list_runs(home)
    if name is None and runs:
        return runs[0]
    for run in runs:
        if run.name == name:
            return run
    known = ", ".join(run.name for run in runs) or "none"
    wanted = f"run {name!r}" if name else "run"
    raise RunNotFound(f"there is no {wanted} below {home / 'runs'}; known: {known}. `tandem run FILE` starts one")
