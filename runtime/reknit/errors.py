"""The errors that Reknit raises, by who is to act."""


class ReknitError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(ReknitError):
    """What the user asked for cannot be done; the message is one sentence that says what to change.

    Ends the job with class Configuration: exit status 2, no retries.
    """


class CheckpointMismatchError(ConfigurationError):
    """A checkpoint does not belong to this model."""


class StoppedError(BaseException):
    """Training leaves at a step boundary because it was told to.

    It passes through the user's function like the end of the process: `except Exception` does not
    stop it, `finally` runs.
    """
