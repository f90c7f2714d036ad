"""How store and operator process say to each other what went wrong."""

from typing import Final

from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ExpiredError,
    NotFoundError,
)

ERRORS: Final[dict[str, type[ApiError]]] = {
    error.__name__: error
    for error in (AlreadyExistsError, ConflictError, ExpiredError, NotFoundError)
}
"""Errors by the name that they travel under."""
