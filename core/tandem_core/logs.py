"""How the parts of a job log."""

import contextlib
import sys
from typing import TextIO, cast

import structlog


class LossyStream:
    """Another stream; what a full disk does not take is lost: nobody ends because it cannot tell of it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write it, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)

    def flush(self) -> None:
        """Flush it, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()


def configure_logs(**context: str) -> None:
    """Structured logs to stderr: coloured lines on a terminal, else JSON. `context` stands in every line."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if sys.stderr.isatty() else structlog.processors.JSONRenderer(default=str),
        ],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", LossyStream(sys.stderr))),
    )
    structlog.contextvars.bind_contextvars(**context)
