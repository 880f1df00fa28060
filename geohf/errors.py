"""The one error that bad input raises."""


class DataError(ValueError):
    """Input that cannot be used.

    The message names the file, the row where there is one, and what to do about it. Recipes print it
    without a traceback and end with exit code 2.
    """
