import pytest
from prometheus_client.parser import text_string_to_metric_families

from reknit.coordinator import stragglers
from reknit.coordinator.metrics import Metrics
from reknit.protocol.base import Generation
from reknit.protocol.ranks import StepDone

FIRST = Generation(incarnation=1, counter=1)
SECOND = Generation(incarnation=1, counter=2)


def make_steps(loads, num_steps, *seconds, generation=FIRST, backward=1.0):
    """Steps in which each rank computes so long; also the changes, by step."""
    changes = {}
    for step in range(1, num_steps + 1):
        for rank, spent in enumerate(seconds):
            split = {"data": spent / 4, "forward": spent * 3 / 4, "backward": backward}
            done = StepDone(generation=generation, step=step, seconds=split)
            loads = stragglers.note(loads, rank, f"w{rank}", done)
        loads, changed = stragglers.judge(loads, range(len(seconds)))
        if changed:
            changes[step] = changed
    return loads, changes


@pytest.mark.parametrize(
    ("seconds", "changes"),
    [
        # The first step does not count.
        ((1.0, 1.6, 1.0, 1.0), {21: (1,)}),
        ((1.0, 1.4, 1.0, 1.0), {}),
        ((1.0, 2.0, 2.0, 1.0), {21: (1, 2)}),
        # Of two the faster one is the measure; one has nothing to be measured by.
        ((1.0, 1.6), {21: (1,)}),
        ((5.0,), {}),
    ],
)
def test_a_rank_is_slow_when_it_is_so_for_twenty_steps(seconds, changes) -> None:
    assert make_steps({}, 60, *seconds)[1] == changes


def test_the_mean_follows_slowly() -> None:
    loads, _ = make_steps({}, 5, 1.0, 1.0)
    for _ in range(2):
        done = StepDone(generation=FIRST, step=6, seconds={"data": 1.5, "forward": 0.5})
        loads = stragglers.note(loads, 1, "w1", done)
    assert loads[1].mean == pytest.approx(1.36)


def test_a_few_slow_steps_make_no_straggler() -> None:
    loads, _ = make_steps({}, 10, 1.0, 1.0, 1.0)
    for _ in range(5):
        loads, changes = make_steps(loads, 10, 1.0, 3.0, 1.0)
        assert changes == {}
        loads, changes = make_steps(loads, 20, 1.0, 1.0, 1.0)
        assert changes == {}


def test_one_that_is_well_again_for_twenty_steps_is_no_straggler_any_more() -> None:
    loads, _ = make_steps({}, 30, 1.0, 2.0, 1.0)
    loads, changes = make_steps(loads, 60, 1.0, 1.3, 1.0)
    assert changes == {}, "neither slow nor well"
    loads, changes = make_steps(loads, 60, 1.0, 1.0, 1.0)
    assert list(changes.values()) == [(1,)]
    assert not loads[1].is_straggler


def test_the_first_step_of_a_process_is_left_out() -> None:
    """It compiles, or fills caches, and would spoil the mean for many steps."""
    loads, _ = make_steps({}, 1, 1.0, 1000.0, 1.0)
    loads, changes = make_steps(loads, 60, 1.0, 1.0, 1.0)
    assert changes == {}
    assert loads[1].ratio == 1.0


def test_a_straggler_remains_one_in_the_next_generation_unless_another_pod_has_its_rank() -> None:
    loads, _ = make_steps({}, 30, 1.0, 2.0, 2.0, 1.0, 1.0)
    done = StepDone(generation=SECOND, step=31, seconds={"forward": 2.0})
    loads = stragglers.note(loads, 1, "w1", done)
    loads = stragglers.note(loads, 2, "another", done)
    assert [loads[rank].is_straggler for rank in (1, 2)] == [True, False]


def test_ranks_that_a_smaller_world_has_not_are_forgotten() -> None:
    loads, _ = make_steps({}, 5, 1.0, 1.0, 1.0)
    loads, _ = make_steps(loads, 5, 1.0, 1.0, generation=SECOND)
    assert set(loads) == {0, 1}


def test_ranks_that_do_not_say_how_long_they_compute_are_not_judged() -> None:
    done = StepDone(generation=FIRST, step=1, seconds={"total": 1.0})
    loads = stragglers.note({}, 0, "w0", done)
    loads = stragglers.note(loads, 0, "w0", done)
    assert stragglers.judge(loads, range(2)) == (loads, ())


def test_stragglers_are_told_once_and_shown_as_a_figure(drive) -> None:
    job = drive(num_workers=3)
    job.begin()

    def make(first, last, slow):
        for step in range(first, last):
            job.now += 1.0
            for rank, seconds in enumerate((0.1, 0.1, slow)):
                job.step(step, rank, seconds={"data": 0.0, "forward": seconds, "total": 1.0})

    make(1, 40, 0.25)
    notes = [r for r in job.records if getattr(r, "reason", "").startswith("Straggler")]
    assert [(note.reason, note.rank) for note in notes] == [("Straggler", 2)]
    assert notes[0].message == "Rank 2 on w2 computes 2.5 times as long as the median of all ranks."
    text = Metrics("gpt", "team", lambda: (job.state, job.now)).text().decode()
    ratios = {
        sample.labels["rank"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "reknit_rank_slowdown_ratio"
    }
    assert ratios == pytest.approx({"0": 1.0, "1": 1.0, "2": 2.5})
    make(40, 90, 0.1)
    assert job.records[-1].kind == "step"
    notes = [r for r in job.records if getattr(r, "reason", "").startswith("Straggler")]
    assert [note.reason for note in notes] == ["Straggler", "StragglerGone"]
    assert notes[-1].message == "Rank 2 on w2 computes as fast as the others again."
    assert len(job.state.current.members) == 3, "nothing is done about it"
