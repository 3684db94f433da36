"""Errors that a person is to read."""


class TandemError(Exception):
    """Something went wrong that the user can do something about: the message names the thing and the remedy."""
