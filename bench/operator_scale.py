"""The operator with many RLJobs: as fast as a plain loop that writes the same objects?

    .venv/bin/python -m bench.operator_scale [--jobs 1000] [--edits 100] [--no-write]

A real control plane for each (API server, etcd, controllers; no node, and so no scheduler) on this machine. The plain
loop makes the same requests that the operator makes for a job - finalizer, objects, status, Event - with as many at a
time, and no operator running. Jobs are created when their objects are there and controllers have made their pods, and
deleted when RLJobs and pods have gone, in both cases.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from tandem_core.job import RLJob
from tandem_core.job.load import check_job
from tandem_operator.build import BuildSettings, KubernetesObject, build_objects
from tandem_operator.generate.crd import render_crd
from tandem_operator.kubernetes_api import KubernetesApi, load_configuration
from tandem_operator.plan.job import GRACE_ANNOTATION
from tandem_operator.resources import EVENT, FINALIZER, JOB, POD, RLJOB, Kind, object_key

from bench.etcd import serve_etcd
from bench.page import describe_machine, write_section
from tools.cluster.control_plane import serve_control_plane

EXAMPLE = Path(__file__).parents[1] / "examples" / "addition.yaml"
NAMESPACE = Kind("v1", "Namespace", "namespaces")
CRD = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
CONFIG_MAP = Kind("v1", "ConfigMap", "configmaps")
JOBS_NAMESPACE = "jobs"
COMPONENTS = ("hybrid", "master")
"""What a job has a Job of."""
AT_A_TIME = 32
"""Jobs that are worked on at the same time: the operator's default."""
DEADLINE_SECONDS = 600.0
POLL_SECONDS = 0.2
SETTLE_SECONDS = 10.0
"""Until what follows from one step no longer disturbs the next one."""


@dataclass
class Times:
    """Seconds for all jobs."""

    created: float = 0.0
    updated: float = 0.0
    deleted: float = 0.0


@dataclass
class Result:
    """What is told on the page."""

    jobs: int
    plain: Times = field(default_factory=Times)
    operator: Times = field(default_factory=Times)
    edits: list[float] = field(default_factory=list)
    """Seconds from an edit until the object that follows from it has been written, with all jobs there."""
    processor_seconds: float = 0.0
    """Of the operator, from no jobs to all of them reconciled."""
    memory_before: float = 0.0
    memory_after: float = 0.0
    """MiB."""


class Jobs:
    """RLJobs of one namespace."""

    def __init__(self, api: KubernetesApi, count: int) -> None:
        self._api = api
        self._names = [f"job-{number}" for number in range(count)]
        raw = yaml.safe_load(EXAMPLE.read_text())
        self._spec = {**raw["spec"], "iterations": 10}
        self._slots = asyncio.Semaphore(AT_A_TIME)

    async def each(self, work: Callable[[str], Awaitable[None]]) -> float:
        """Seconds for `work` on all of them."""

        async def one(name: str) -> None:
            async with self._slots:
                await work(name)

        began = time.monotonic()
        await asyncio.gather(*(one(name) for name in self._names))
        return time.monotonic() - began

    async def create(self, name: str) -> KubernetesObject:
        """Apply the RLJob; grace 0: no pod has anything to save."""
        annotations = {GRACE_ANNOTATION: "0"}
        return await self._apply(RLJOB, {"metadata": {"name": name, "annotations": annotations}, "spec": self._spec})

    async def edit(self, name: str, iterations: int) -> KubernetesObject:
        """Change what may change while a job runs."""
        return await self._api.merge(RLJOB, JOBS_NAMESPACE, name, {"spec": {"iterations": iterations}})

    async def delete(self, name: str) -> None:
        """Ask for its end."""
        found = await self._api.read(RLJOB, JOBS_NAMESPACE, name)
        if found is not None:
            await self._api.delete(RLJOB, JOBS_NAMESPACE, name, found["metadata"]["uid"])

    async def release(self, name: str) -> None:
        """As the operator does at a job's end: its Jobs go, then the finalizer."""
        for component in COMPONENTS:
            found = await self._api.read(JOB, JOBS_NAMESPACE, f"{name}-{component}")
            if found is not None:
                await self._api.delete(JOB, JOBS_NAMESPACE, found["metadata"]["name"], found["metadata"]["uid"])
        await self._api.merge(RLJOB, JOBS_NAMESPACE, name, {"metadata": {"finalizers": []}})

    async def time_edit(self, name: str, iterations: int) -> float:
        """Seconds from an edit until the ConfigMap has followed."""
        await self.edit(name, iterations)
        began = time.monotonic()
        while True:
            found = await self._api.read(CONFIG_MAP, JOBS_NAMESPACE, f"{name}-job") or {}
            if f"iterations: {iterations}\n" in found["data"]["job.yaml"]:
                return time.monotonic() - began
            await asyncio.sleep(0.002)

    async def wait(self, ready: Callable[[KubernetesObject | None], bool], kind: Kind = RLJOB, part: str = "") -> None:
        """Return when each RLJob, or each one's object of that kind, is as `ready` says; None: it is not there.

        One after the other, in the order in which they were made: to list all of them, again and again, would cost the
        API server more than to write some.
        """
        end = time.monotonic() + DEADLINE_SECONDS
        for name in self._names:
            while not ready(await self._api.read(kind, JOBS_NAMESPACE, name + part)):
                if time.monotonic() > end:
                    raise TimeoutError(f"{name}{part} is not as it should be after {DEADLINE_SECONDS:.0f} s")
                await asyncio.sleep(POLL_SECONDS)

    async def wait_for_pods(self) -> None:
        """Return when the controllers have made all pods."""
        for component in COMPONENTS:
            await self.wait(_has_pods, JOB, f"-{component}")

    async def wait_until_gone(self) -> None:
        """Return when there are neither RLJobs nor pods."""
        await self.wait(lambda job: job is None)
        while (await self._api.list_uids(POD, JOBS_NAMESPACE, ""))[0]:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(POLL_SECONDS)

    async def write_as_operator(self, body: KubernetesObject, *, first: bool) -> None:
        """The requests that the operator makes for a job, one after the other or together as it does."""
        job = check_job({name: value for name, value in body.items() if name != "status"})
        name = job.metadata.name
        if first:
            await self._api.merge(RLJOB, JOBS_NAMESPACE, name, {"metadata": {"finalizers": [FINALIZER]}})
        objects = build_objects(job, BuildSettings(etcd_endpoints="127.0.0.1:2379", token="t"))  # noqa: S106
        changed = [item for item in objects if first or item["kind"] == "ConfigMap"]
        workloads = [item for item in changed if item["kind"] == "Job"]
        others = [item for item in changed if item["kind"] != "Job"]
        for part in (others, workloads):
            await asyncio.gather(*(self._api.apply(object_key(item).kind, item) for item in part))
        await self._apply(RLJOB, {"metadata": {"name": name}, "status": _status(job)}, "status")
        if first:
            await self._api.create(EVENT, _event(body))

    async def _apply(self, kind: Kind, item: KubernetesObject, subresource: str = "") -> KubernetesObject:
        head = {"apiVersion": kind.api_version, "kind": kind.name}
        item["metadata"]["namespace"] = JOBS_NAMESPACE
        return (await self._api.apply(kind, {**head, **item}, subresource=subresource))[0]


def _has_pods(workload: KubernetesObject | None) -> bool:
    return workload is not None and workload.get("status", {}).get("active") == workload["spec"]["parallelism"]


def _event(body: KubernetesObject) -> KubernetesObject:
    """That the job begins."""
    metadata = body["metadata"]
    head = {"apiVersion": body["apiVersion"], "kind": body["kind"]}
    involved = {**head, **{name: metadata[name] for name in ("namespace", "name", "uid")}}
    words = {"type": "Normal", "reason": "PodsStarting", "message": "Pods are being made, or are not ready yet."}
    names = {"namespace": metadata["namespace"], "name": f"{metadata['name']}.1"}
    return {"apiVersion": "v1", "kind": "Event", "metadata": names, "involvedObject": involved, **words, "count": 1}


def _status(job: RLJob) -> KubernetesObject:
    """As large as the operator's."""
    kinds = ("Accepted", "Ready", "Progressing", "Degraded", "Suspended", "Complete", "Failed")
    shared = {"status": "False", "reason": "Starting", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    conditions = [{"type": kind, **shared, "observedGeneration": job.metadata.generation} for kind in kinds]
    return {"phase": "Pending", "observedGeneration": job.metadata.generation, "conditions": conditions}


async def measure_plain(jobs: Jobs) -> Times:
    """The loop without an operator."""

    async def create(name: str) -> None:
        await jobs.write_as_operator(await jobs.create(name), first=True)

    async def update(name: str) -> None:
        await jobs.write_as_operator(await jobs.edit(name, 20), first=False)

    async def delete(name: str) -> None:
        await jobs.delete(name)
        await jobs.release(name)

    times = Times()
    began = time.monotonic()
    await jobs.each(create)
    await jobs.wait_for_pods()
    times.created = time.monotonic() - began
    await asyncio.sleep(SETTLE_SECONDS)
    times.updated = await jobs.each(update)
    await asyncio.sleep(SETTLE_SECONDS)
    began = time.monotonic()
    await jobs.each(delete)
    await jobs.wait_until_gone()
    times.deleted = time.monotonic() - began
    return times


async def measure_operator(jobs: Jobs, process: psutil.Process, result: Result, edits: int) -> None:
    """The same with RLJobs alone; the operator does the rest."""

    def told(generation: int) -> Callable[[KubernetesObject | None], bool]:
        return lambda job: (job or {}).get("status", {}).get("observedGeneration") == generation

    async def create(name: str) -> None:
        await jobs.create(name)

    async def update(name: str) -> None:
        await jobs.edit(name, 20)

    result.memory_before, used = _memory(process), _processor(process)
    began = time.monotonic()
    await jobs.each(create)
    await jobs.wait(told(1))
    await jobs.wait_for_pods()
    result.operator.created = time.monotonic() - began
    result.processor_seconds = _processor(process) - used
    result.memory_after = _memory(process)
    await asyncio.sleep(SETTLE_SECONDS)
    began = time.monotonic()
    await jobs.each(update)
    await jobs.wait(told(2))
    result.operator.updated = time.monotonic() - began
    await asyncio.sleep(SETTLE_SECONDS)
    for number in range(edits):
        result.edits.append(await jobs.time_edit(f"job-{number * result.jobs // edits}", 30))
    began = time.monotonic()
    await jobs.each(jobs.delete)
    await jobs.wait_until_gone()
    result.operator.deleted = time.monotonic() - began


def _memory(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20


def _processor(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def serve_operator(kubeconfig: Path, etcd: str, directory: Path) -> Iterator[psutil.Process]:
    """A running operator that is the active one."""
    log = directory / "operator.log"
    command = [sys.executable, "-m", "tandem_operator", "--port=18999", f"--etcd-endpoints={etcd}"]
    command += ["--lease-namespace=default", f"--workers={AT_A_TIME}", f"--namespaces={JOBS_NAMESPACE}"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env={**os.environ, "KUBECONFIG": str(kubeconfig)}
        )
    try:
        while "this is the active operator" not in log.read_text():
            time.sleep(0.1)
        time.sleep(3)  # its watches begin
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


async def measure(count: int, edits: int, directory: Path) -> Result:
    """All of it."""
    result = Result(count)
    async with new_cluster() as (api, _):
        result.plain = await measure_plain(Jobs(api, count))
    async with new_cluster() as (api, kubeconfig):
        with serve_etcd() as etcd, serve_operator(kubeconfig, etcd, directory) as process:
            await measure_operator(Jobs(api, count), process, result, edits)
    return result


@asynccontextmanager
async def new_cluster() -> AsyncIterator[tuple[KubernetesApi, Path]]:
    """A control plane with the CRD and the namespace, without anything that an earlier one has left to do."""
    with serve_control_plane(scheduler=False) as kubeconfig:
        os.environ["KUBECONFIG"] = str(kubeconfig)
        async with KubernetesApi(await load_configuration()) as api:
            await api.apply(CRD, yaml.safe_load(render_crd()))
            await api.apply(NAMESPACE, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": JOBS_NAMESPACE}})
            while not await api.knows(RLJOB):  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(POLL_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS)
            yield api, kubeconfig


def describe(result: Result) -> str:
    """The section of the page."""
    rows = [
        (name, getattr(result.plain, name), getattr(result.operator, name))
        for name in ("created", "updated", "deleted")
    ]
    table = "\n".join(f"| {name} | {plain:.1f} | {own:.1f} | {own / plain:.2f} |" for name, plain, own in rows)
    edits = sorted(result.edits)
    memory = result.memory_after - result.memory_before
    return f"""
`.venv/bin/python -m bench.operator_scale`: {result.jobs} RLJobs, each with 10 objects, on a control plane without
nodes and without a scheduler; seconds until all are written and controllers have made their pods, or until all are
gone.
{describe_machine()}

| | plain loop, s | operator, s | ratio |
| --- | --- | --- | --- |
{table}

- The plain loop makes the operator's own requests (finalizer, objects, status, Event), {AT_A_TIME} jobs at a time.
  Each has a control plane of its own. A job's last object goes only after its pods with the operator; the loop takes
  the job away at once.
- Operator: {1000 * result.processor_seconds / result.jobs:.0f} ms of processor time and
  {1024 * memory / result.jobs:.0f} KiB of memory for each job ({result.memory_before:.0f} MiB without any,
  {result.memory_after:.0f} MiB with all).
- From an edit of one job until the operator has written what follows from it, with all jobs there: p50
  {1000 * statistics.median(edits):.0f} ms, p99 {1000 * edits[int(0.99 * (len(edits) - 1))]:.0f} ms (of which 50 ms are
  waited on purpose).
"""


def main() -> None:
    """Measure, print, write the section."""
    parser = argparse.ArgumentParser(prog="python -m bench.operator_scale", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        result = asyncio.run(measure(options.jobs, min(options.edits, options.jobs), Path(directory)))
    text = describe(result)
    print(text)
    if not options.no_write:
        write_section("operator", text)


if __name__ == "__main__":
    main()
