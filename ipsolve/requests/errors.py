"""Errors that are meant for the person who wrote the request."""


class RequestError(ValueError):
    """The request itself is wrong (a key, a value, a path, a shape, a checkpoint).

    Its message is one line that names what is wrong and what is allowed. Command-line jobs print it and
    exit with code 2 before any actor starts.
    """
