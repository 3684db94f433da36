"""A lane: a place where one container at a time waits and runs, with users, folders and control group of its own."""

import errno
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from tandem_core.errors import TandemError

from tandem_sandbox.bundle import HIDDEN_IN_PROC, WORK_FOLDER, LanePlaces
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
    """Blocks: to be called in threads, by one at a time."""

    def __init__(self, places: LanePlaces, runtime: Runtime, group: ControlGroup) -> None:
        self._places = places
        self._runtime = runtime
        self.group = group
        """Holds the limits of what runs here."""
        self._container: Container | None = None
        self._view = OwnView(places.folder / "view")
        self._names = (f"lane{places.number}-{count}" for count in itertools.count())
        self.image: Image | None = None
        """The image whose container waits here."""

    @classmethod
    def make(cls, number: int, settings: Settings, runtime: Runtime, group: ControlGroup) -> Self:
        """An empty lane below the service's folder."""
        folder = settings.run_folder / f"lane-{number}"
        folder.mkdir()
        # runc takes no mounts below /proc, gVisor has devices of its own, and an ordinary user cannot show any.
        own = runtime.program == "crun" and not settings.unprivileged
        devices = make_own_devices(folder / "devices", HIDDEN_IN_PROC) if own else None
        places = LanePlaces(number, folder, settings.unprivileged, devices)
        for part in (places.bundle, places.writable, places.root):
            part.mkdir()
        return cls(places, runtime, group)

    def prepare(self, image: Image) -> None:
        """Have a container of the image wait here. Raises ContainerError."""
        self.empty()
        try:
            self.group.clean()
            shown = self._view.show(image)
            self._container = Container.start(shown, self._places, self._runtime, next(self._names))
            # Now and not when there is a job: it takes the kernel 10 ms to be sure that nobody else moves processes.
            # gVisor's kernel has more processes already.
            for process in descend(self._container.first_process):
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
        for place in (self._places.root, self._places.writable):
            if place.is_mount():
                unmount(place)

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
