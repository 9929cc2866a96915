"""The one exception a person's input can cause."""


class BadInput(ValueError):
    """What was given cannot be used: one sentence saying what, where, and what is accepted.

    The command line prints it and exits with code 2; nothing has been written by then.
    """


class Diverged(RuntimeError):
    """Training left the finite numbers; the message names the step and the loss's parts."""
