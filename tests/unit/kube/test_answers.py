"""What answers of the API server mean."""

from datetime import timedelta
from itertools import pairwise

import pytest

from reknit_operator.kube.answers import (
    MAX_TRIES,
    BusyError,
    RefusedError,
    error_for,
    wait_before_retry,
)
from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    NotFoundError,
)


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (410, "Expired", ExpiredError),
        (403, "Forbidden", RefusedError),
        (422, "Invalid", RefusedError),
        (429, "TooManyRequests", BusyError),
        (500, "InternalError", BusyError),
    ],
)
def test_errors(status, reason, expected):
    error = error_for(status, {"reason": reason, "message": "quota exceeded"})
    assert type(error) is expected
    assert str(error) == "quota exceeded"


def test_an_answer_without_words_is_told_by_its_number():
    assert str(error_for(502, {})) == "the API server answered 502"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422])
def test_a_refusal_is_not_repeated(status):
    assert wait_before_retry(status, {}, 1) is None


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_waits_double_and_end(status):
    waits = [wait_before_retry(status, {}, tries) for tries in range(1, MAX_TRIES)]
    assert all(second == 2 * first for first, second in pairwise(waits))
    assert wait_before_retry(status, {}, MAX_TRIES) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("3", 3), ("3600", 10), ("soon", 0.2), ("-1", 0.2), ("", 0.2)]
)
def test_the_server_says_how_long_to_wait(text, seconds):
    assert wait_before_retry(429, {"Retry-After": text}, 1) == timedelta(seconds=seconds)
