"""What a program writes, up to a limit."""

import os

_CHUNK = 1 << 16


class Stream:
    """The reading end of a pipe."""

    def __init__(self, most_bytes: int) -> None:
        self.reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.reader, False)
        self.most_bytes = most_bytes
        self.data = bytearray()
        self.ended = False

    @property
    def overflowed(self) -> bool:
        """Whether more came than allowed."""
        return len(self.data) > self.most_bytes

    def read(self) -> None:
        """Take what is there, at most a little beyond the limit."""
        while not self.ended and not self.overflowed:
            try:
                chunk = os.read(self.reader, _CHUNK)
            except BlockingIOError:
                return
            self.data += chunk
            self.ended = not chunk

    def discard(self) -> None:
        """Throw away what is there."""
        try:
            while os.read(self.reader, _CHUNK):
                pass
            self.ended = True
        except BlockingIOError:
            return

    def take(self) -> bytes:
        """The bytes, cut at the limit."""
        return bytes(self.data[: self.most_bytes])

    def close_writer(self) -> None:
        """Close our copy of the writing end."""
        os.close(self.writer)

    def close(self) -> None:
        """Close the reading end."""
        os.close(self.reader)
