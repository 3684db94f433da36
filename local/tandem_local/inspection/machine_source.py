"""Jobs that run, or ran, on this machine."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import yaml
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.snapshot import JobSnapshot, observe_snapshot
from tandem_core.coordination.store import Store
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, load_job
from tandem_rollout.excerpt import ITERATIONS, newest_trained
from tandem_rollout.storage.history import IterationRecord, SampleRecord
from tandem_rollout.storage.history_file import open_history

from tandem_local.inspection.facts import JobFacts
from tandem_local.inspection.machine_objects import describe_run
from tandem_local.inspection.redaction import Redactor, list_secret_values
from tandem_local.inspection.source import Collection
from tandem_local.kubernetes_values import KubernetesObject
from tandem_local.log_files import read_tail
from tandem_local.outcome import find_history
from tandem_local.process_table import is_alive
from tandem_local.run_directory import RunDirectory, find_run, list_runs
from tandem_local.run_state import RunState

ETCD_SECONDS = 5.0


class MachineSource:
    """A JobSource; `home` is TANDEM_HOME."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def observe(self, name: str) -> JobFacts:
        """The run of that name."""
        run = find_run(self._home, name)
        state = _read_state(run)
        facts, problems = describe_run(state), []
        try:
            job = load_job(run.job_file)
            facts = replace(facts, job=job)
            facts = replace(facts, iterations=tuple(self._read_iterations(run, job)))
        except TandemError as error:
            problems.append(str(error))
        if is_alive(state.runner) and not state.status.final and state.etcd_endpoint:
            try:
                facts = replace(facts, snapshot=asyncio.run(_ask_etcd(state)))
            except TandemError as error:
                problems.append(str(error))
        return replace(facts, problems=tuple(problems))

    def list_jobs(self) -> list[JobFacts]:
        """All runs, the newest first."""
        states = [run.read_state() for run in list_runs(self._home)]
        return [describe_run(state) for state in states if state is not None]

    def read_samples(self, name: str, iteration: int | None, limit: int) -> tuple[SampleRecord, ...]:
        """From the replay buffer's file, also while the master writes it, and after the job's end."""
        run = find_run(self._home, name)
        path = find_history(run, load_job(run.job_file))
        if path is None:
            raise TandemError(f"run {run.name} has recorded nothing yet in {run.path}/volumes: is its master running?")
        with open_history(path) as history:
            chosen = iteration if iteration is not None else newest_trained(history.iterations())
            return tuple(history.samples(chosen, limit))

    def collect(self, name: str, log_lines: int) -> Collection:
        """The run's files but its volumes, and what `observe` tells."""
        run = find_run(self._home, name)
        logs = {f"{path.parent.name}/{path.stem}": read_tail(path, log_lines) for path in run.logs.glob("*/*.log")}
        facts = replace(self.observe(run.name), logs={log: tuple(lines) for log, lines in logs.items()})
        job, objects = (_load_objects(file) for file in (run.job_file, run.objects_file))
        redactor = Redactor.of(list_secret_values([*job, *objects, self._load_secrets(run)]))
        logs["runner"] = read_tail(run.runner_log, log_lines)
        texts = {
            "rljob.yaml": redactor.dump(*job),
            "objects.yaml": redactor.dump(*objects),
            "state.json": run.state_file.read_text(),
            **{f"logs/{log}.log": "".join(f"{line}\n" for line in lines) for log, lines in logs.items()},
        }
        return Collection(facts, redactor, texts)

    def _read_iterations(self, run: RunDirectory, job: RLJob) -> list[IterationRecord]:
        path = find_history(run, job)
        if path is None:
            return []
        with open_history(path) as history:
            return history.iterations()[-ITERATIONS:]

    def _load_secrets(self, run: RunDirectory) -> KubernetesObject:
        """A Secret with the job's token and key, and the user's own Secrets."""
        files = [run.token_file, run.certificate / "tls.key", *(self._home / "secrets").glob("*/*")]
        contents = [file.read_bytes() for file in files if file.is_file()]
        data = {str(number): base64.b64encode(content).decode() for number, content in enumerate(contents)}
        return {"kind": "Secret", "data": data}


def _load_objects(file: Path) -> list[KubernetesObject]:
    return list(yaml.safe_load_all(file.read_text())) if file.is_file() else []


def _read_state(run: RunDirectory) -> RunState:
    state = run.read_state()
    if state is None:
        raise TandemError(f"{run.state_file} cannot be read: another version of Tandem wrote it, or it is damaged")
    return state


async def _ask_etcd(state: RunState) -> JobSnapshot:
    async with Store(state.etcd_endpoint, patience_seconds=ETCD_SECONDS) as store:
        return await observe_snapshot(store, JobKeys(state.uid))
