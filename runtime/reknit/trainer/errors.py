"""Errors of training that are not the user's."""

from reknit.errors import ReknitError


class CheckpointError(ReknitError):
    """The final checkpoint of a job could not be written; an error of the infrastructure."""


class WrongNumbersError(ReknitError):
    """This rank computes wrong numbers where others do not; another process takes its place."""
