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

    Args:
        unsaved: why the last version is not durable and from where the job resumes; None when it
            is, or when the job writes no checkpoints.
    """

    def __init__(self, unsaved: str | None = None) -> None:
        super().__init__(unsaved or "")
        self.unsaved = unsaved


class RewoundError(BaseException):
    """The job goes back to an earlier version than the one that the user's function has come to.

    It passes through the function, which is then called anew.
    """
