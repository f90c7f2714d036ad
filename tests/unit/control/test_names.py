"""Names of children are deterministic and never name two pods."""

from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.constants import Role, coordinator_name, training_pod_name


def name(role, replica, attempt=1, replacements=0):
    return training_pod_name("gpt", role, replica, attempt=attempt, replacements=replacements)


def test_first_pods_have_plain_names():
    assert name(Role.WORKER, 3) == "gpt-worker-3"
    assert name(Role.SPARE, 1) == "gpt-spare-1"
    assert coordinator_name("gpt", 1) == "gpt-coordinator-1"


@given(st.lists(st.booleans(), max_size=30), st.sampled_from([Role.WORKER, Role.SPARE]))
def test_a_replica_never_reuses_a_name(restarts, role):
    """Each step raises the attempt (True) or the replacements (False), as the operator does."""
    attempt, replacements = 1, 0
    names = [name(role, 0, attempt, replacements)]
    for restart in restarts:
        attempt, replacements = attempt + restart, replacements + (not restart)
        names.append(name(role, 0, attempt, replacements))
    assert len(set(names)) == len(names)
