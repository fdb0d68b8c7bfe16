"""The one exception for everything that a user can cause and mend."""


class UserError(ValueError):
    """Bad input, told in one or two lines: what is wrong, where, and how to mend it.

    Entry points print the message without a traceback and exit with status 2.
    """
