"""The one exception for what a user can put right."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input: the message is one line that names the argument or file, its value and the remedy.

    The command line prints it and exits with code 2; every other exception is a fault of this package.
    """
