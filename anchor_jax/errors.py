"""The one error type a user is meant to read."""


class AnchorError(Exception):
    """Bad input, told in one line: what was wrong, where, what was expected, what to do.

    The command line prints the message and exits with 2; library users may catch it.
    """
