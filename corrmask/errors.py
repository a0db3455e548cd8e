"""The exception for what a user can put right, and the warning for what a user may not have meant."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message is one line that names the argument or file, its value and the remedy.

    The command line prints it and exits with code 2; every other exception is a fault of this package.
    """


class InputWarning(UserWarning):
    """Input that can be used and may not be what was meant; the command line prints the message as one line."""
