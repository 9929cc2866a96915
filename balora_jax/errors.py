"""The two exceptions that end a command with a message."""


class BadInput(ValueError):
    """Input that cannot be used; one sentence names it, its place, and the accepted values.

    The command line prints the sentence and exits with code 2. Nothing has been written by then.
    """


class Diverged(RuntimeError):
    """A loss that is not finite; the message names the step and the parts of the loss."""
