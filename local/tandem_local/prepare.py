"""From a job file to a run directory that a runner can take up."""

import ipaddress
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from tandem_core.errors import TandemError
from tandem_core.job import RLJob, dump_job, load_job, parse_job
from tandem_operator.build import BuildSettings, build_objects

from tandem_local.addresses import find_address_block
from tandem_local.etcd_server import CLIENT_PORT, PEER_PORT
from tandem_local.inputs import check_inputs
from tandem_local.kubernetes_values import KubernetesObject
from tandem_local.machine import observe_machine
from tandem_local.places import Places
from tandem_local.pods import LocalPod, LocalWorkload, build_workloads
from tandem_local.process_table import is_alive
from tandem_local.resources import check_fit, estimate_need, estimate_parameters
from tandem_local.run_directory import RunDirectory
from tandem_local.run_secrets import RunSecrets
from tandem_local.run_state import RunState
from tandem_local.sweep import sweep_run
from tandem_local.user_secrets import load_user_secrets

_ID_LENGTH = 8


class RunExists(TandemError):
    """There is a run of that name already."""


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for."""

    file: Path
    overrides: tuple[str, ...] = ()
    name: str | None = None
    resume: bool = False
    overwrite: bool = False
    force: bool = False


@dataclass(frozen=True)
class RunPlan:
    """Everything a runner needs."""

    directory: RunDirectory
    places: Places
    job: RLJob
    workloads: tuple[LocalWorkload, ...]

    @property
    def pods(self) -> list[LocalPod]:
        """All pods of all workloads."""
        return [pod for workload in self.workloads for pod in workload.pods]

    @property
    def first_pods(self) -> list[LocalPod]:
        """Those that run from the start: not the ones that a workload may be scaled to."""
        return [pod for workload in self.workloads for pod in workload.pods[: workload.replicas]]

    @property
    def etcd_endpoint(self) -> str:
        """host:port of the run's etcd."""
        return f"{self.places.address(0)}:{CLIENT_PORT}"


def load_requested_job(request: RunRequest) -> RLJob:
    """The job in the request's file, overrides and name applied, without a uid of its own."""
    overrides = [*request.overrides, *([f"metadata.name={request.name}"] if request.name else [])]
    return load_job(request.file, overrides)


def prepare_run(request: RunRequest, home: Path) -> RunPlan:
    """Check everything that can be checked before the start, and write the run directory.

    Raises TandemError: JobFileError for the file, ModelFilesError or SourceError for what it names, RunExists,
    DoesNotFit, AddressesTaken.
    """
    job = load_requested_job(request)
    directory = RunDirectory(home / "runs" / job.metadata.name)
    check_inputs(job.spec)
    former = _observe_former(directory, request)
    uid = former.uid if former else job.metadata.uid or str(uuid.uuid4())
    job = job.model_copy(update={"metadata": job.metadata.model_copy(update={"uid": uid})})
    if former is not None:
        _check_same_model(job, directory)
    secrets = RunSecrets.load(directory, job) if former else RunSecrets.make(job)
    # The ports are read off the objects themselves, which only need some endpoint for that.
    objects = build_objects(job, BuildSettings(etcd_endpoints="localhost:2379"))
    run_id = uid.replace("-", "")[:_ID_LENGTH]
    state = RunState(
        job=job.metadata.name,
        uid=uid,
        run_id=run_id,
        working_directory=Path.cwd(),
        address_block=str(find_address_block(run_id, [CLIENT_PORT, PEER_PORT, *container_ports(objects)])),
        started_at=time.time(),
    )
    plan = _build_plan(directory, job, state, secrets)
    if not request.force:
        need = estimate_need(job, estimate_parameters(job.spec.model))
        check_fit(job, need, plan.first_pods, observe_machine())
    _write_directory(plan, state, secrets)
    return plan


def load_plan(directory: RunDirectory) -> RunPlan:
    """The plan of a prepared run, from its directory."""
    state = directory.read_state()
    if state is None:
        raise TandemError(f"{directory.path} holds no run: start it with `tandem run FILE`")
    job = parse_job(directory.job_file.read_text(), source=str(directory.job_file))
    return _build_plan(directory, job, state, RunSecrets.load(directory, job))


def observe_places(directory: RunDirectory, state: RunState) -> Places:
    """Where the run's parts lie."""
    block = ipaddress.IPv4Network(state.address_block)
    return Places(state.run_id, directory.path, block, state.working_directory)


def container_ports(objects: list[KubernetesObject]) -> set[int]:
    """All ports that containers of the objects' pods listen on."""
    ports: set[int] = set()
    for item in objects:
        spec: dict[str, Any] = item.get("spec", {}).get("template", {}).get("spec", {})
        for container in [*spec.get("initContainers", []), *spec.get("containers", [])]:
            ports |= {int(port["containerPort"]) for port in container.get("ports", [])}
    return ports


def _observe_former(directory: RunDirectory, request: RunRequest) -> RunState | None:
    """The state of the run to resume; None: there is none, and the directory is free. Raises RunExists."""
    former = directory.read_state()
    if former is None:
        return None
    if is_alive(former.runner):
        raise RunExists(
            f"a run named {directory.name} is going on: look at it with `tandem ps`, end it with "
            f"`tandem stop {directory.name}`, or choose another name with --name"
        )
    if request.resume:
        sweep_run(observe_places(directory, former))
        return former
    if request.overwrite:
        sweep_run(observe_places(directory, former))
        directory.remove()
        return None
    raise RunExists(
        f"there is a run named {directory.name} in {directory.path} ({former.status}): continue it with --resume, "
        "choose another name with --name, or remove it, its checkpoints included, with --overwrite"
    )


def _check_same_model(job: RLJob, directory: RunDirectory) -> None:
    former = parse_job(directory.job_file.read_text(), source=str(directory.job_file))
    if former.spec.model != job.spec.model:
        raise RunExists(
            f"the run {directory.name} trains another model (spec.model differs from {directory.job_file}), and its "
            "checkpoints would not fit: choose another name with --name, or start anew with --overwrite"
        )


def _build_plan(directory: RunDirectory, job: RLJob, state: RunState, secrets: RunSecrets) -> RunPlan:
    places = observe_places(directory, state)
    settings = BuildSettings(
        etcd_endpoints=f"{places.address(0)}:{CLIENT_PORT}",
        token=secrets.token,
        certificate_files=dict(secrets.certificate),
    )
    elastic = job.spec.elastic
    objects = build_objects(job, settings, inference_replicas=elastic.max)
    objects += load_user_secrets(directory.path.parent.parent)
    workloads = [
        workload if workload.is_job else replace(workload, replicas=elastic.min)
        for workload in build_workloads(objects, places)
    ]
    return RunPlan(directory, places, job, tuple(workloads))


def _write_directory(plan: RunPlan, state: RunState, secrets: RunSecrets) -> None:
    plan.directory.make()
    plan.directory.job_file.write_text(dump_job(plan.job))
    secrets.write(plan.directory)
    settings = BuildSettings(etcd_endpoints=plan.etcd_endpoint)  # without the Secrets
    plan.directory.objects_file.write_text(yaml.safe_dump_all(build_objects(plan.job, settings), sort_keys=False))
    plan.directory.write_state(state)
