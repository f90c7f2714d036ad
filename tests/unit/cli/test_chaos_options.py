from datetime import timedelta

import pytest

from reknit_operator.cli.chaos.decide import Action
from reknit_operator.cli.chaos.options import read_options
from reknit_operator.cli.refusal import Refusal

TYPED = {
    "seed": 3,
    "every": "60s",
    "actions": "kill-rank",
    "duration": None,
    "count": None,
    "resume_after": "5s",
    "slow_for": "1m",
}


def test_what_is_typed_is_what_is_meant():
    options = read_options(
        **{**TYPED, "duration": "1h30m", "actions": "kill-pod, stop-rank", "count": 4}
    )
    assert options.duration == timedelta(minutes=90)
    assert options.actions == (Action.KILL_POD, Action.STOP_RANK)
    assert (options.seed, options.every, options.count) == (3, timedelta(seconds=60), 4)
    assert (options.resume_after, options.slow_for) == (timedelta(seconds=5), timedelta(minutes=1))


def test_without_an_end_there_is_none():
    assert read_options(**TYPED).duration is None


def test_everything_that_is_wrong_is_named_at_once():
    with pytest.raises(Refusal) as refused:
        read_options(**{**TYPED, "every": "often", "duration": "0s", "actions": "kill-rank,pray"})
    assert [problem.split(":")[0] for problem in refused.value.problems] == [
        "--every",
        "--for",
        "--actions",
    ]
    assert "no 'pray'" in refused.value.problems[2]
    assert "kill-operator" in refused.value.problems[2]


def test_nothing_is_disturbed_where_nothing_runs(reknit, tmp_path):
    ended = reknit("chaos", tmp_path)
    assert ended.code == 2
    assert ended.err == f"{tmp_path}: no job runs there now\n"


def test_all_actions_are_the_default(reknit):
    help_text = reknit("chaos", "--help").out
    assert ",".join(Action) in "".join(help_text.split())
    assert "namespaces" in help_text
