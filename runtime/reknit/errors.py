"""The errors that Reknit raises, by who is to act."""


class ReknitError(Exception):
    """Base of all errors raised on purpose."""


class ConfigurationError(ReknitError):
    """What the user asked for cannot be done; the message is one sentence that says what to change.

    Ends the job with class Configuration: exit status 2, no retries.
    """


class CheckpointMismatchError(ConfigurationError):
    """A checkpoint does not belong to this model."""


class StoppedError(ReknitError):
    """Training leaves at a step boundary because it was told to; never shown to the user's code."""
