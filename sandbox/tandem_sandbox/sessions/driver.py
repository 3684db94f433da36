"""Inside a session's container: starts a Jupyter kernel and speaks with it for the service, by a JSON object a line.

    python3 -I -c THIS KERNEL SECONDS

It runs by the image's own Python (3.8 or newer) with jupyter_client, and knows nothing of this project. The service
believes nothing of what it says but that it is the session's own output: cells can end it, and speak in its place.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

_LOOK_MILLISECONDS = 250
_SHOWN_BYTES = 2000
_MOST_MESSAGES = 100
# ipykernel shows what is printed every 0.2 s: until then an endless loop has printed more than there is memory for.
_SHOW_SOON = "__import__('ipykernel.iostream').iostream.OutStream.flush_interval = 0.01"
_FRAME_BYTES = 128  # around a text; what is escaped in it is left out with it


def say(kind: str, **content: Any) -> None:
    """Tell the service."""
    _write(_encode(kind, content))


def _encode(kind: str, content: Any) -> bytes:
    return json.dumps({"kind": kind, **content}, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


class Kernel:
    """A kernel that runs, and the sockets on which it is asked and answers."""

    def __init__(self, name: str) -> None:
        from jupyter_client import KernelManager  # type: ignore[import-not-found]  # of the image

        os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # or ipykernel's debugger talks when it starts
        folder = tempfile.mkdtemp(prefix="kernel-")
        self._log = open(os.path.join(folder, "log"), "w+b")  # noqa: SIM115 - as long as the kernel
        self.manager = KernelManager(
            kernel_name=name, transport="ipc", connection_file=os.path.join(folder, "kernel.json")
        )
        self.manager.start_kernel(stdout=self._log, stderr=self._log)
        self.shell = self.manager.connect_shell()
        self.iopub = self.manager.connect_iopub()

    def wait_ready(self, seconds: float) -> bool:
        """Until it answers, and what it shows arrives; whether it did in time and lives."""
        deadline = time.monotonic() + seconds
        answered = heard = False
        while not (answered and heard):
            if time.monotonic() > deadline or not self.manager.is_alive():
                return False
            self.manager.session.send(self.shell, "kernel_info_request")
            answered = bool(self.shell.poll(1000)) or answered
            heard = bool(self.iopub.poll(1000)) or heard
            self.receive(self.shell)
        if self.manager.kernel_spec.language == "python":
            content = {"code": _SHOW_SOON, "silent": True, "store_history": False, "allow_stdin": False}
            self.manager.session.send(self.shell, "execute_request", content)
        return True

    def receive(self, socket: Any) -> list[dict[str, Any]]:
        """Messages that are there; not more at once than others can wait for."""
        found: list[dict[str, Any]] = []
        while len(found) < _MOST_MESSAGES and socket.poll(0):
            _, message = self.manager.session.recv(socket)
            if message is not None:
                found.append(message)
        return found

    def last_words(self) -> str:
        """The end of what it wrote past Jupyter, as a crash does."""
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - _SHOWN_BYTES))
        return self._log.read().decode(errors="replace").strip()


class Cell:
    """A cell that runs."""

    def __init__(self, kernel: Kernel, number: int, code: str, most_bytes: int) -> None:
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        self._kernel = kernel
        self._number = number
        self._most_bytes = most_bytes
        self._said_bytes = 0
        self._full = False
        self._reply: dict[str, Any] | None = None
        self._idle = False
        self._request = kernel.manager.session.send(kernel.shell, "execute_request", content)["header"]["msg_id"]

    @property
    def done(self) -> bool:
        """Whether it has answered, and nothing more is to come."""
        return self._reply is not None and self._idle

    def take(self, message: dict[str, Any]) -> None:
        """Hand on what belongs to this cell."""
        if message["parent_header"].get("msg_id") != self._request:
            return
        kind, content = message["header"]["msg_type"], message["content"]
        if kind == "execute_reply":
            self._reply = content
        elif kind == "status":
            self._idle = content["execution_state"] == "idle"
        else:
            output = _output_of(kind, content)
            if output is not None:
                self._show(output)

    def tell_end(self) -> None:
        """After its last output."""
        reply = self._reply or {}
        say("done", cell=self._number, ok=reply.get("status") == "ok", execution_count=reply.get("execution_count"))

    def _show(self, output: dict[str, Any]) -> None:
        if self._full:
            return
        room = self._most_bytes - self._said_bytes
        data = self._frame(output)
        self._full = len(data) > room
        if self._full and output["output_type"] == "stream":
            data = self._frame({**output, "text": output["text"][: max(0, room - _FRAME_BYTES)]})
        if len(data) <= room:
            self._said_bytes += len(data)
            _write(data)
        if self._full:
            say("overflow", cell=self._number)
            self._kernel.manager.interrupt_kernel()  # at once: what it writes until then has to be read

    def _frame(self, output: dict[str, Any]) -> bytes:
        return _encode("output", {"cell": self._number, "output": output})


def _output_of(kind: str, content: dict[str, Any]) -> dict[str, Any] | None:
    """As in a notebook's file."""
    if kind == "stream":
        return {"output_type": kind, "name": content["name"], "text": content["text"]}
    if kind in ("display_data", "update_display_data"):
        return {"output_type": "display_data", "data": content["data"], "metadata": content.get("metadata", {})}
    if kind == "execute_result":
        return {
            "output_type": kind,
            "execution_count": content.get("execution_count"),
            "data": content["data"],
            "metadata": content.get("metadata", {}),
        }
    if kind == "error":
        return {
            "output_type": kind,
            "ename": content["ename"],
            "evalue": content["evalue"],
            "traceback": content["traceback"],
        }
    return None


def serve(kernel: Kernel) -> None:
    """Run cells until the kernel dies, or nobody speaks any more."""
    import zmq

    poller = zmq.Poller()
    for source in (0, kernel.shell, kernel.iopub):
        poller.register(source, zmq.POLLIN)
    cell: Cell | None = None
    heard = b""
    while True:
        events = dict(poller.poll(_LOOK_MILLISECONDS))
        if not events and not kernel.manager.is_alive():
            say("died", reason=kernel.last_words())
            return
        if 0 in events:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *lines, heard = (heard + data).split(b"\n")
            for line in lines:
                cell = _obey(json.loads(line), kernel, cell)
        for socket in (kernel.iopub, kernel.shell):
            for message in kernel.receive(socket) if socket in events else []:
                if cell is not None:
                    cell.take(message)
        if cell is not None and cell.done:
            cell.tell_end()
            cell = None


def _obey(word: dict[str, Any], kernel: Kernel, cell: Cell | None) -> Cell | None:
    if word["kind"] == "run":
        return Cell(kernel, word["cell"], word["code"], word["output_bytes"])
    if cell is not None:
        kernel.manager.interrupt_kernel()
    return cell


def main() -> None:
    """Start the kernel, say so, and serve; or say why not."""
    name, seconds = sys.argv[1], float(sys.argv[2])
    try:
        kernel = Kernel(name)
    except Exception as error:  # whatever the image's jupyter_client raises: the service shows it
        say("failed", reason=f"{type(error).__name__}: {error}")
        return
    if not kernel.wait_ready(seconds):
        say("failed", reason=kernel.last_words() or f"it did not answer within {seconds:g} s")
        return
    say("ready")
    serve(kernel)


if __name__ == "__main__":
    main()
