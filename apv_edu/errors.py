"""The one error a reader should ever see for something they can fix."""


class InputError(ValueError):
    """Bad input: one sentence that names the file or value, what is wrong, and the remedy.

    The command line prints it without a traceback and exits with status 2.
    """


class Busy(InputError):
    """Another process is at it; it may be gone in a moment."""
