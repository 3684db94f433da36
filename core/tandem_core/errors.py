"""Errors that a person is to read."""

import errno

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)


class TandemError(Exception):
    """Something went wrong that the user can do something about: the message names the thing and the remedy."""


class OutOfSpace(TandemError):
    """A disk or shared memory is full. That may pass: what was tried is to be tried again."""


def is_out_of_space(error: OSError) -> bool:
    """Whether the error says that there is no room, or that the process may not take more."""
    return error.errno in _NO_SPACE
