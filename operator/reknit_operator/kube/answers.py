"""What an answer of the API server means: an error that callers tell apart, or try again."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ExpiredError,
    NotFoundError,
)

MAX_TRIES: Final = 5
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_FIRST_WAIT: Final = timedelta(milliseconds=200)
_LONGEST_WAIT: Final = timedelta(seconds=10)


class RefusedError(ApiError):
    """The API server refuses a request for good: forbidden, invalid, over quota."""


class BusyError(ApiError):
    """The API server has too much to do, or is not well; asking later may help."""


def error_for(status: int, answer: Mapping[str, Any]) -> ApiError:
    """The error that a status from 400 on, and the Status object that came with it, stand for."""
    message = str(answer.get("message", "")) or f"the API server answered {status}"
    if status == 404:
        return NotFoundError(message)
    if status == 409:
        is_name = answer.get("reason") == "AlreadyExists"
        return AlreadyExistsError(message) if is_name else ConflictError(message)
    if status == 410:
        return ExpiredError(message)
    return BusyError(message) if status in _BUSY else RefusedError(message)


def wait_before_retry(status: int, headers: Mapping[str, str], num_tries: int) -> timedelta | None:
    """How long to wait before the same request is sent again; None if that is of no use.

    A server that is too busy says how long it wants to be left alone.
    """
    if status not in _BUSY or num_tries >= MAX_TRIES:
        return None
    wanted = headers.get("Retry-After", "")
    if wanted.isascii() and wanted.isdigit():
        return min(timedelta(seconds=int(wanted)), _LONGEST_WAIT)
    return min(_FIRST_WAIT * 2.0 ** (num_tries - 1), _LONGEST_WAIT)
