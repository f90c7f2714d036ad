"""What may change while a job runs, told alike by `validate_update` and by the API server."""

import pytest

from manifests import FIXED_CHANGES, FREE_CHANGES
from reknit_operator.api.shape import parse_object
from reknit_operator.api.transitions import FIXED
from reknit_operator.api.validation import validate_update

SENTENCE = "this cannot change while the job runs, set suspend to true first"


def immutable(api_server, new, old):
    return sorted(path for path, text in api_server.admit(new, old) if text == SENTENCE)


@pytest.mark.parametrize(("case", "changes"), FIXED_CHANGES.items())
def test_what_ranks_are_told_cannot_change(api_server, changed, case, changes):
    old, new = changed({}), changed(changes)

    problems = validate_update(parse_object(old), parse_object(new))

    path = f"spec.{case.partition(',')[0]}"
    assert [(problem.path, problem.sentence) for problem in problems] == [(path, SENTENCE)]
    assert immutable(api_server, new, old) == [path]


@pytest.mark.parametrize("changes", FREE_CHANGES.values(), ids=FREE_CHANGES)
def test_the_rest_may_change(api_server, changed, changes):
    old, new = changed({}), changed(changes)

    assert validate_update(parse_object(old), parse_object(new)) == []
    assert api_server.admit(new, old) == []


def test_a_suspended_job_may_change_and_resume_at_once(api_server, changed):
    old = changed({"spec.suspend": True})
    new = changed({"spec.workers.replicas": 2, "spec.seed": 7, "spec.suspend": False})

    assert validate_update(parse_object(old), parse_object(new)) == []
    assert api_server.admit(new, old) == []


def test_suspending_and_changing_at_once_is_refused(api_server, changed):
    old, new = changed({}), changed({"spec.seed": 7, "spec.suspend": True})

    assert [str(found) for found in validate_update(parse_object(old), parse_object(new))] == [
        f"spec.seed: {SENTENCE}"
    ]
    assert immutable(api_server, new, old) == ["spec.seed"]


def test_every_fixed_field_has_a_case():
    assert {case.partition(",")[0] for case in FIXED_CHANGES} == set(FIXED)
