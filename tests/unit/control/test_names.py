"""Names of children are deterministic and never name two pods."""

from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.constants import coordinator_name, worker_name


def test_first_pods_have_plain_names():
    assert worker_name("gpt", 3, attempt=1, replacements=0) == "gpt-worker-3"
    assert coordinator_name("gpt", 1) == "gpt-coordinator-1"


@given(st.lists(st.booleans(), max_size=30))
def test_a_replica_never_reuses_a_name(restarts):
    """Each step raises the attempt (True) or the replacements (False), as the operator does."""
    attempt, replacements = 1, 0
    names = [worker_name("gpt", 0, attempt=attempt, replacements=replacements)]
    for restart in restarts:
        attempt, replacements = attempt + restart, replacements + (not restart)
        names.append(worker_name("gpt", 0, attempt=attempt, replacements=replacements))
    assert len(set(names)) == len(names)
