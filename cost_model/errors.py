"""Faults of the user's input, each with the exit code that the command line documents."""


class SzilardError(Exception):
    """A sentence for the user that names the thing and the next step. Never shown with a traceback."""

    exit_code = 1


class InputError(SzilardError):
    """The model, the data or the options cannot be used as given (exit code 2)."""

    exit_code = 2


class BudgetError(SzilardError):
    """An asked joule budget, or a locked or edited plan, cannot be met (exit code 3)."""

    exit_code = 3
