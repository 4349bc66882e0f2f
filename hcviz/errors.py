"""The one error type of hcviz: bad input, said with what was given and what to do next."""


class HcvizError(ValueError):
    """Bad input; the message repeats it, says what is wrong and names the remedy.

    A subclass of ``ValueError``. The command line prints it without a traceback and exits with 2.
    """


class CloneError(HcvizError):
    """A model that cannot be widened as asked, or a clone that is none."""
