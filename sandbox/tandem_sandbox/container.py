"""A container that waits for one job, runs it, and is gone. Blocks: to be called in threads."""

import contextlib
import os
import select
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tandem_sandbox.bundle import LanePlaces
from tandem_sandbox.control_group import ControlGroup
from tandem_sandbox.files_in import write_layout
from tandem_sandbox.images.image import Image
from tandem_sandbox.job import ContainerError, Job
from tandem_sandbox.mounts import SAFE, mount
from tandem_sandbox.run_watch import Moment, Stop, blame_memory, plan_stop, plan_wait_seconds, plan_window
from tandem_sandbox.runtime import Runtime
from tandem_sandbox.script import READY, build_script, build_talking_script
from tandem_sandbox.stream import Stream
from tandem_sandbox.threads import FORKS, Cancellation

_READY_SECONDS = 60.0
_END_SECONDS = 30.0
_WAITING_DISK = "size=64m,nr_inodes=4096"


@dataclass(slots=True)
class Container:
    """Made by `start`, used once by `run`; `end` always."""

    places: LanePlaces
    process: subprocess.Popen[bytes]
    control: int
    """Where the shell's commands are written; -1: closed."""
    stdout: Stream
    stderr: Stream
    first_process: int = 0
    """The shell, as numbered here."""
    _first: int = -1
    """A descriptor of it: unlike its number it can never become another process's."""

    @classmethod
    def start(cls, image: Image, places: LanePlaces, runtime: Runtime, name: str) -> Self:
        """Mount, make and start it by the lane's bundle. Raises ContainerError, OSError; the lane is to be emptied."""
        mount("tmpfs", places.writable, "tmpfs", SAFE, f"mode=755,{_WAITING_DISK}")
        write_layout(places)
        layers = f"lowerdir={image.root},upperdir={places.writable}/upper,workdir={places.writable}/overlay"
        mount("overlay", places.root, "overlay", SAFE, layers + (",userxattr" if places.unprivileged else ""))
        places.process_file.unlink(missing_ok=True)
        stdin, control = os.pipe2(os.O_CLOEXEC)
        stdout, stderr = Stream(1 << 16), Stream(1 << 16)
        try:
            with FORKS:
                process = subprocess.Popen(  # noqa: S603 - none of the words come from a request
                    runtime.build_command(places, name), stdin=stdin, stdout=stdout.writer, stderr=stderr.writer
                )
        except OSError:
            os.close(control)
            stdout.close()
            stderr.close()
            raise
        finally:
            os.close(stdin)
            stdout.close_writer()
            stderr.close_writer()
        container = cls(places, process, control, stdout, stderr)
        try:
            container._wait_ready()
            runtime.keep_compiled_seccomp(name)
        except BaseException:
            container.end()
            raise
        return container

    def run(self, job: Job, group: ControlGroup, cancellation: Cancellation) -> tuple[Stop | None, float]:
        """Run the command in its group until it ends or is ended; returns why it was ended, and the seconds it took."""
        self.stdout.most_bytes = self.stderr.most_bytes = job.limits.output_bytes
        started_at = time.monotonic()
        self._tell(build_script(job.command, job.environment))
        stop = self._watch_run(job, group, cancellation, started_at)
        if stop is not None:
            self.kill()
            self._discard_output()
        self._wait_end()
        return stop, time.monotonic() - started_at

    def begin(self, job: Job) -> None:
        """Start the command and leave it running: what is written to `control` from now on is its input."""
        self._tell(build_talking_script(job.command, job.environment), close=False)
        os.set_blocking(self.control, False)

    def kill(self) -> None:
        """End all its processes: with the first process of a process namespace all end, none can escape by forking."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._first, signal.SIGKILL)

    def end(self) -> None:
        """End all its processes and close what is open."""
        if self.control >= 0:
            os.close(self.control)
            self.control = -1
        if self.process.poll() is None:
            if self._first >= 0:
                self.kill()
            else:
                self.process.kill()
            self._wait_end()
        if self._first >= 0:
            os.close(self._first)
            self._first = -1
        self.stdout.close()
        self.stderr.close()

    def _wait_ready(self) -> None:
        """Until the shell answers. Its number is then known too."""
        self._tell(READY, close=False)
        poll = select.poll()
        poll.register(self.stdout.reader, select.POLLIN)
        deadline = time.monotonic() + _READY_SECONDS
        while not self.stdout.data:
            poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            self.stdout.read()
            if self.stdout.ended or time.monotonic() > deadline:
                self.stderr.read()
                said = self.stderr.take().decode(errors="replace").strip()
                raise ContainerError(f"a container did not start: {said or 'no answer'}")
        self.stdout.data.clear()
        while not (number := _read_number(self.places.process_file)):
            if time.monotonic() > deadline:
                raise ContainerError(f"no process number in {self.places.process_file}")
            time.sleep(0.001)
        self.first_process = number
        self._first = os.pidfd_open(number)

    def _watch_run(self, job: Job, group: ControlGroup, cancellation: Cancellation, started_at: float) -> Stop | None:
        ended = os.pidfd_open(self.process.pid)
        poll = select.poll()
        for descriptor in (ended, cancellation.descriptor, self.stdout.reader, self.stderr.reader):
            poll.register(descriptor, select.POLLIN)
        window = now = Moment(0.0, 0.0)
        try:
            while True:
                wait_seconds = plan_wait_seconds(job.limits, now, window, watched=group.watched)
                events = {number for number, _ in poll.poll(wait_seconds * 1000)}
                for stream in (self.stdout, self.stderr):
                    if stream.reader in events:
                        stream.read()
                        if stream.overflowed:
                            return Stop.OUTPUT
                        if stream.ended:
                            poll.unregister(stream.reader)
                now = Moment(time.monotonic() - started_at, group.observe_cpu_seconds())
                if ended in events:
                    return self._drain(job, now)
                if cancellation.descriptor in events:
                    return Stop.CANCELLED
                if group.watched and group.observe_held_bytes() > job.limits.memory_bytes:
                    return Stop.MEMORY
                if stop := plan_stop(job.limits, now, window):
                    return blame_memory(stop, group.observe_held_bytes(), job.limits)
                window = plan_window(job.limits, now, window)
        finally:
            os.close(ended)

    def _drain(self, job: Job, now: Moment) -> Stop | None:
        """What was written before the end; and it may have ended just beyond its time."""
        for stream in (self.stdout, self.stderr):
            stream.read()
            if stream.overflowed:
                return Stop.OUTPUT
        return Stop.CPU if now.cpu_seconds >= job.limits.cpu_seconds else None

    def _tell(self, words: bytes, *, close: bool = True) -> None:
        try:
            view = memoryview(words)
            while view:
                view = view[os.write(self.control, view) :]
        except BrokenPipeError:  # the shell has been ended: the wait for it will say so
            pass
        if close:
            os.close(self.control)
            self.control = -1

    def _discard_output(self) -> None:
        """Until the runtime ends: runc copies what its container writes, and first gets rid of it."""
        ended = os.pidfd_open(self.process.pid)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        streams = {stream.reader: stream for stream in (self.stdout, self.stderr) if not stream.ended}
        for reader in streams:
            poll.register(reader, select.POLLIN)
        deadline = time.monotonic() + _END_SECONDS
        try:
            while time.monotonic() < deadline:
                events = [number for number, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)]
                if ended in events:
                    return
                for stream in (streams[number] for number in events):
                    stream.discard()
                    if stream.ended:
                        poll.unregister(stream.reader)
        finally:
            os.close(ended)

    def _wait_end(self) -> None:
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise ContainerError(
                f"the container runtime did not end within {_END_SECONDS:g} s of its container"
            ) from None


def _read_number(path: Path) -> int:
    try:
        return int(path.read_text() or 0)
    except FileNotFoundError:
        return 0
