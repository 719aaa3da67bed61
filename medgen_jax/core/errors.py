"""The one exception that users are meant to read."""


class UserError(Exception):
    """Bad input: the message names the file or field at fault and the remedy.

    The mains print it in one line, without a traceback, and exit with code 2.
    """
