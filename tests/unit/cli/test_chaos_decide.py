import statistics
from collections import Counter
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit_operator.cli.chaos.decide import Action, Deed, Observed, RankProcess, choose, pause

EVERY = timedelta(seconds=60)
JOB = Observed(
    ranks=tuple(RankProcess(rank, f"worker-{rank // 2}", 100 + rank) for rank in range(4)),
    agents={"worker-0": 10, "worker-1": 11},
    coordinator=5,
    operator=4,
)


def deeds(*actions, observed=JOB, number=2000, seed=0):
    return [choose(seed, index, actions, observed) for index in range(number)]


def test_pauses_have_the_wanted_mean_and_no_memory():
    seconds = [pause(7, number, EVERY).total_seconds() for number in range(4000)]
    assert statistics.mean(seconds) == pytest.approx(60, rel=0.05)
    # Of an exponential distribution: as far from the mean as the mean is large.
    assert statistics.stdev(seconds) == pytest.approx(60, rel=0.07)
    late = [each - 60 for each in seconds if each > 60]
    assert statistics.mean(late) == pytest.approx(60, rel=0.1)


@given(st.integers(), st.integers(min_value=0), st.lists(st.sampled_from(Action), min_size=1))
def test_the_same_seed_and_state_give_the_same_deed(seed, number, actions):
    shuffled = Observed(JOB.ranks[::-1], dict(reversed(JOB.agents.items())), 5, 4)
    deed = choose(seed, number, actions, JOB)
    assert deed == choose(seed, number, actions, shuffled)
    assert deed.action in actions
    assert pause(seed, number, EVERY) == pause(seed, number, EVERY)


def test_another_seed_gives_another_course():
    assert deeds(*Action, number=20, seed=1) != deeds(*Action, number=20, seed=2)
    assert pause(1, 0, EVERY) != pause(2, 0, EVERY)


def test_the_choice_depends_on_the_rank_and_not_on_its_process():
    """A replaced process does not change the rest of the course."""
    ranks = tuple(RankProcess(each.rank, each.pod, each.pid + 1000) for each in JOB.ranks)
    before = deeds(Action.KILL_RANK, number=50)
    after = deeds(Action.KILL_RANK, number=50, observed=Observed(ranks))
    assert [deed.rank for deed in before] == [deed.rank for deed in after]
    assert all(deed.pid == 1100 + deed.rank for deed in after)


def test_actions_and_ranks_are_equally_likely():
    found = deeds(*Action)
    actions = Counter(deed.action for deed in found)
    assert all(number == pytest.approx(2000 / len(Action), rel=0.2) for number in actions.values())
    ranks = Counter(deed.rank for deed in deeds(Action.STOP_RANK))
    assert sorted(ranks) == [0, 1, 2, 3]
    assert all(number == pytest.approx(500, rel=0.2) for number in ranks.values())


def test_an_action_named_twice_is_not_more_likely():
    found = deeds(Action.KILL_POD, Action.KILL_RANK, Action.KILL_POD)
    assert Counter(deed.action for deed in found)[Action.KILL_POD] == pytest.approx(1000, rel=0.1)


@pytest.mark.parametrize(
    ("action", "deed"),
    [
        (Action.KILL_COORDINATOR, Deed(Action.KILL_COORDINATOR, 5)),
        (Action.KILL_OPERATOR, Deed(Action.KILL_OPERATOR, 4)),
    ],
)
def test_what_there_is_one_of_is_found(action, deed):
    assert deeds(action, number=3) == [deed] * 3


def test_a_pod_is_its_agent():
    for action in (Action.KILL_POD, Action.CUT_OFF_POD):
        found = {(deed.pod, deed.pid, deed.rank) for deed in deeds(action)}
        assert found == {("worker-0", 10, None), ("worker-1", 11, None)}


def test_nothing_is_done_to_what_is_not_there():
    alone = Observed(operator=4)
    assert deeds(*Action, number=1, observed=Observed()) == [None]
    assert deeds(Action.KILL_RANK, Action.KILL_POD, number=1, observed=alone) == [None]
    assert deeds(*Action, number=9, observed=alone) == [Deed(Action.KILL_OPERATOR, 4)] * 9


def test_a_deed_says_what_it_hits():
    assert str(Deed(Action.STOP_RANK, 42, "worker-1", 3)) == "stop-rank: rank 3 in worker-1, pid 42"
    assert str(Deed(Action.KILL_POD, 42, "worker-1")) == "kill-pod: worker-1, pid 42"
    assert str(Deed(Action.KILL_OPERATOR, 42)) == "kill-operator: pid 42"
