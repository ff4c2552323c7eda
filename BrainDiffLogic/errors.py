"""Errors that a user can act on."""


class InputError(ValueError):
    """Bad input or usage: one line that names the file or argument and the remedy (exit status 2)."""


class Refused(InputError):  # noqa: N818 - a decision, not a failure
    """A volume far outside the domain of a model, which ``force`` overrides."""


class Cancelled(Exception):  # noqa: N818 - a request of the user, not an error
    """The user cancelled a running job; nothing was written."""
