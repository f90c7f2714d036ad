import pytest

from reknit.data.ledger import Ledger, committed
from reknit.data.order import DataOrder
from reknit.layout import BatchPlan
from reknit.protocol.base import Generation


@pytest.fixture
def record(tmp_path):
    """record((incarnation, counter), rank, {version: samples}) into `tmp_path`."""

    def write(generation, rank, versions):
        ledger = Ledger(
            tmp_path, Generation(incarnation=generation[0], counter=generation[1]), rank
        )
        for version, samples in versions.items():
            ledger.record(version, samples)
        ledger.close()

    return write


def test_ranks_are_joined_in_order(tmp_path, record):
    record((1, 1), 1, {1: [3, 4], 2: [7]})
    record((1, 1), 0, {1: [1, 2], 2: [5, 6]})
    assert committed(tmp_path) == {1: [1, 2, 3, 4], 2: [5, 6, 7]}


def test_the_newest_generation_counts(tmp_path, record):
    record((1, 1), 0, {1: [1], 2: [2], 3: [3]})
    record((1, 2), 0, {3: [30], 4: [40]})
    assert committed(tmp_path) == {1: [1], 2: [2], 3: [30], 4: [40]}


def test_what_lies_beyond_the_start_of_a_newer_generation_is_superseded(tmp_path, record):
    record((1, 1), 0, {1: [1], 2: [2], 3: [3], 4: [4]})
    record((2, 1), 0, {2: [20]})
    assert committed(tmp_path) == {1: [1], 2: [20]}


def test_a_newer_generation_that_began_lower_supersedes_all_between(tmp_path, record):
    record((1, 1), 0, {1: [1], 2: [2], 3: [3]})
    record((1, 2), 0, {4: [4], 5: [5]})
    record((1, 10), 0, {2: [20], 3: [30]})
    assert committed(tmp_path) == {1: [1], 2: [20], 3: [30]}


def test_generations_are_ordered_as_numbers(tmp_path, record):
    record((1, 9), 0, {1: [9]})
    record((1, 10), 0, {1: [10]})
    assert committed(tmp_path) == {1: [10]}


def test_a_generation_that_committed_nothing_changes_nothing(tmp_path, record):
    record((1, 1), 0, {1: [1]})
    record((1, 2), 0, {})
    assert committed(tmp_path) == {1: [1]}


def test_a_torn_last_line_was_never_recorded(tmp_path, record):
    record((1, 1), 0, {1: [1], 2: [2]})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    assert committed(tmp_path) == {1: [1]}


def test_recording_again_after_a_restart_of_the_process_goes_on(tmp_path, record):
    record((1, 1), 0, {1: [1]})
    record((1, 1), 0, {2: [2]})
    assert committed(tmp_path) == {1: [1], 2: [2]}


def test_other_files_are_left_out(tmp_path, record):
    record((1, 1), 0, {1: [1]})
    (tmp_path / "notes.jsonl").write_text("x")
    assert committed(tmp_path) == {1: [1]}


def test_an_epoch_is_used_exactly_once_whatever_the_worlds(tmp_path, record):
    """World sizes 4, 3, 5 with falls back to earlier versions, as a job under faults leaves it."""
    num_samples, order = 96, DataOrder(96, seed=1)
    runs = [((1, 1), 4, range(5)), ((1, 2), 3, range(3, 8)), ((2, 1), 5, range(6, 12))]
    for generation, world, steps in runs:
        plan = BatchPlan(global_batch=8, micro=2, num_ranks=world)
        for rank in range(world):
            record(
                generation,
                rank,
                {
                    step + 1: [
                        sample
                        for index in plan.micro_batches(rank)
                        if index is not None
                        for sample in order.samples(plan.positions(step, index))
                    ]
                    for step in steps
                },
            )
    history = committed(tmp_path)
    assert list(history) == list(range(1, 13))
    used = [sample for samples in history.values() for sample in samples]
    assert used == order.samples(range(num_samples))
    assert sorted(used) == list(range(num_samples))
