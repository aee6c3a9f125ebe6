"""The one error that users are meant to see."""


class UserError(Exception):
    """Bad input, found before any training starts, or a training that came to nothing.

    The message names the file or key, what was found there and what to do. Entry points print it
    without a traceback and exit non-zero.
    """
