"""A lane: a place where one container at a time waits and runs, with users, folders and control group of its own."""

import errno
import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Self

from tandem_core.errors import TandemError

from tandem_sandbox.bundle import HIDDEN_IN_PROC, WORK_FOLDER, LanePlaces, build_bundle
from tandem_sandbox.container import Container
from tandem_sandbox.control_group import ControlGroup
from tandem_sandbox.files_in import write_files
from tandem_sandbox.files_out import read_outputs
from tandem_sandbox.images.image import Image
from tandem_sandbox.job import ContainerError, Job, Outcome
from tandem_sandbox.mounts import SAFE, MountFlag, mount, unmount
from tandem_sandbox.own_devices import make_own_devices
from tandem_sandbox.own_view import OwnView
from tandem_sandbox.processes import descend
from tandem_sandbox.run_watch import Stop
from tandem_sandbox.runtime import Runtime
from tandem_sandbox.settings import Settings
from tandem_sandbox.threads import Cancellation


class Lane:
    """Blocks: to be called in its own thread, which alone sees what is mounted here.

    A container's creation copies all mounts that its maker sees: those of the other lanes would cost it time.
    """

    def __init__(self, places: LanePlaces, runtime: Runtime, group: ControlGroup, thread: ThreadPoolExecutor) -> None:
        self.thread = thread
        """The lane's own."""
        self._places = places
        self._runtime = runtime
        self.group = group
        """Holds the limits of what runs here."""
        self._container: Container | None = None
        self._view = OwnView(places.folder / "view")
        self._names = (f"lane{places.number}-{count}" for count in itertools.count())
        self._written: object = None
        """What the bundle was built from."""
        self._mounted = False
        self.image: Image | None = None
        """The image whose container waits here."""

    @classmethod
    def make(cls, number: int, settings: Settings, runtime: Runtime, group: ControlGroup) -> Self:
        """An empty lane below the service's folder; to be called anywhere. Raises OSError."""
        thread = ThreadPoolExecutor(1, thread_name_prefix=f"lane-{number}")
        return thread.submit(cls._make, number, settings, runtime, group, thread).result()

    @classmethod
    def _make(
        cls, number: int, settings: Settings, runtime: Runtime, group: ControlGroup, thread: ThreadPoolExecutor
    ) -> Self:
        os.unshare(os.CLONE_NEWNS)
        folder = settings.run_folder / f"lane-{number}"
        folder.mkdir()
        # runc takes no mounts below /proc, gVisor has devices of its own, and an ordinary user cannot show any.
        own = runtime.program == "crun" and not settings.unprivileged
        devices = make_own_devices(folder / "devices", HIDDEN_IN_PROC) if own else None
        places = LanePlaces(number, folder, settings.unprivileged, devices)
        for part in (places.bundle, places.writable, places.root):
            part.mkdir()
        return cls(places, runtime, group, thread)

    def prepare(self, image: Image) -> None:
        """Have a container of the image wait here. Raises ContainerError."""
        self.empty()
        try:
            self.group.clean()
            shown, name = self._view.show(image), next(self._names)
            self._write_bundle(shown, name)
            self._mounted = True
            self._container = Container.start(shown, self._places, self._runtime, name)
            # Now and not when there is a job: it takes the kernel 10 ms to be sure that nobody else moves processes.
            first = self._container.first_process
            for process in descend(first) if self._runtime.has_own_processes else (first,):
                self.group.add(process)
        except (OSError, TandemError) as error:
            self.empty()
            raise ContainerError(f"no container of image {image.name} can be made: {error}") from error
        except ContainerError:
            self.empty()
            raise
        self.image = image

    def run(self, job: Job, cancellation: Cancellation) -> Outcome:
        """Run the job in the container that waits here; the lane is empty afterwards. Raises ContainerError."""
        container = self._container
        if container is None:
            raise ContainerError("no container waits in this lane")
        try:
            with _explained():
                self._admit(job)
                stop, wall_seconds = container.run(job, self.group, cancellation)
                return self._observe_outcome(container, job, stop, wall_seconds)
        finally:
            self.empty()

    def begin(self, job: Job) -> Container:
        """Start the job's command and leave it running until the lane is emptied. Raises ContainerError."""
        container = self._container
        if container is None:
            raise ContainerError("no container waits in this lane")
        with _explained():
            self._admit(job)
            container.begin(job)
        return container

    def empty(self) -> None:
        """End what is here, and take its file systems away. Raises ContainerError."""
        self.image = None
        container, self._container = self._container, None
        if container is not None:
            container.end()
        if self._mounted:
            for place in (self._places.root, self._places.writable):
                if place.is_mount():
                    unmount(place)
            self._mounted = False

    def _write_bundle(self, image: Image, name: str) -> None:
        """config.json, unless it is there as the last container's, which mostly was of the same image."""
        groups = self._runtime.groups_path(name)
        wanted = (image, self._runtime.compiled_seccomp, groups)
        if wanted == self._written:
            return
        self._written = None
        bundle = build_bundle(image, self._places, self._runtime.seccomp, self._runtime.compiled_seccomp)
        if groups is not None:
            bundle["linux"]["cgroupsPath"] = groups
        (self._places.bundle / "config.json").write_text(json.dumps(bundle))
        self._written = wanted

    def _admit(self, job: Job) -> None:
        """Its files and limits."""
        limits = job.limits
        extra = len(job.stdin) + sum(len(file.data) for file in job.files.values()) + (len(job.files) + 1) * 4096
        options = f"size={limits.disk_bytes + extra},nr_inodes={limits.files + 2 * len(job.files) + 64}"
        mount("tmpfs", self._places.writable, "tmpfs", SAFE | MountFlag.REMOUNT, options)
        write_files(self._places, job.files, job.stdin)
        self.group.apply_limits(limits)

    def _observe_outcome(self, container: Container, job: Job, stop: Stop | None, wall_seconds: float) -> Outcome:
        usage = self.group.observe_usage()
        work = self._places.writable / "upper" / WORK_FOLDER.lstrip("/")
        files, left_out = read_outputs(work, job.outputs, job.output_total_bytes) if job.outputs else ({}, ())
        return Outcome(
            exit_code=container.process.returncode if stop is None else None,
            stop=stop,
            stdout=container.stdout.take(),
            stderr=container.stderr.take(),
            cpu_seconds=usage.cpu_seconds,
            wall_seconds=wall_seconds,
            memory_bytes=usage.memory_bytes,
            out_of_memory=usage.out_of_memory > 0,
            files=files,
            left_out=left_out,
        )


@contextmanager
def _explained() -> Iterator[None]:
    """What the machine fails at is the container's failure."""
    try:
        yield
    except (OSError, TandemError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise ContainerError(f"the machine has no room for the job's files: {error}") from error
        raise ContainerError(f"the container failed: {error}") from error
