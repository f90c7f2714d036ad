import random
import threading

import numpy as np
import pytest
import torch

from reknit.data.loader import StepLoader
from reknit.data.order import DataOrder
from reknit.layout import BatchPlan


class Numbers:
    """Sample i is the number i."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index, /):
        return torch.tensor([float(index)])


def jitter(sample, generator):
    return sample + torch.rand(1, generator=generator)


@pytest.fixture
def load():
    """Makes the batches of one rank; every loader made is closed in the end."""
    loaders = []

    def make(rank=0, world=1, *, batch=8, micro=2, steps=range(3), num_samples=50, **options):
        options.setdefault("dataset", Numbers(num_samples))
        loader = StepLoader(
            order=DataOrder(num_samples, seed=5),
            plan=BatchPlan(batch, micro, world),
            rank=rank,
            seed=5,
            start_step=steps.start,
            stop_step=steps.stop,
            **options,
        )
        loaders.append(loader)
        return loader

    yield make
    for loader in loaders:
        loader.close()


def test_the_samples_are_those_of_the_order(load):
    for batch in load(steps=range(4, 7)):
        assert batch.sample_ids == tuple(
            DataOrder(50, seed=5).samples(range(batch.step * 8, batch.step * 8 + 8))
        )
        for micro_batch in batch.micro_batches:
            assert micro_batch.data.flatten().tolist() == list(micro_batch.sample_ids)


def test_the_steps_are_those_asked_for(load):
    assert [batch.step for batch in load(steps=range(4, 7))] == [4, 5, 6]
    assert list(load(steps=range(4, 4))) == []


@pytest.mark.parametrize("world", [2, 3, 4, 5, 7])
def test_any_world_sees_the_same_micro_batches(load, world):
    def contents(world):
        return {
            (batch.step, micro_batch.index): (micro_batch.sample_ids, micro_batch.data.tolist())
            for rank in range(world)
            for batch in load(rank, world, transform=jitter)
            for micro_batch in batch.micro_batches
            if micro_batch.index is not None
        }

    assert contents(world) == contents(1)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 5, 7])
def test_weights_add_up_and_all_ranks_run_the_same_passes(load, world):
    batches = [next(load(rank, world)) for rank in range(world)]
    passes = [micro_batch for batch in batches for micro_batch in batch.micro_batches]
    assert sum(micro_batch.weight for micro_batch in passes) == 1.0
    assert len({len(batch.micro_batches) for batch in batches}) == 1
    assert sorted(i for batch in batches for i in batch.sample_ids) == sorted(
        DataOrder(50, seed=5).samples(range(8))
    )


def test_a_pass_of_weight_zero_runs_on_valid_samples(load):
    (uneven,) = [
        micro_batch for micro_batch in next(load(2, 3)).micro_batches if micro_batch.index is None
    ]
    own = next(load(2, 3)).micro_batches[0]
    assert (uneven.weight, uneven.sample_ids) == (0.0, ())
    assert uneven.data.tolist() == own.data.tolist()
    (idle,) = next(load(6, 7)).micro_batches
    assert (idle.index, idle.weight, idle.sample_ids) == (None, 0.0, ())
    assert idle.data.shape == own.data.shape


def test_transforms_draw_the_same_numbers_when_a_step_is_redone(load):
    def drawn(steps):
        return {
            batch.step: [micro_batch.data.tolist() for micro_batch in batch.micro_batches]
            for batch in load(steps=steps, transform=jitter)
        }

    first = drawn(range(6))
    assert drawn(range(2, 4)) == {step: first[step] for step in (2, 3)}
    fractions = [value[0] % 1 for step in first.values() for data in step for value in data]
    assert len(set(fractions)) > 40


def test_global_generators_are_left_alone(load):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    list(load(transform=jitter))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_tuples_and_mappings_are_collated(load):
    class Records(Numbers):
        def __getitem__(self, index, /):
            return {"x": torch.tensor([index, index]), "pair": (index, 0.5)}

    data = next(load(dataset=Records(50))).micro_batches[0].data
    assert data["x"].shape == (2, 2)
    assert data["pair"][0].dtype == torch.int64
    assert data["pair"][1].tolist() == [0.5, 0.5]


def test_an_own_collate_function_is_used(load):
    batch = next(load(collate=lambda samples: [float(sample) for sample in samples]))
    assert batch.micro_batches[0].data == list(batch.micro_batches[0].sample_ids)


def test_an_error_of_the_data_set_is_raised_in_its_step(load):
    order = DataOrder(50, seed=5)
    bad = order.sample(17)

    class Damaged(Numbers):
        def __getitem__(self, index, /):
            if index == bad:
                raise OSError(f"row {index} is damaged")
            return super().__getitem__(index)

    loader = load(dataset=Damaged(50))
    assert [next(loader).step, next(loader).step] == [0, 1]
    with pytest.raises(OSError, match=f"row {bad} is damaged"):
        next(loader)


def test_loading_runs_ahead_of_the_step(load):
    loaded = threading.Event()

    class Watched(Numbers):
        def __getitem__(self, index, /):
            if index == last:
                loaded.set()
            return super().__getitem__(index)

    last = DataOrder(50, seed=5).sample(23)  # the last sample of step 2
    loader = load(dataset=Watched(50), prefetch=2)
    assert next(loader).step == 0
    assert loaded.wait(10)  # without step 1 having been asked for
    assert next(loader).step == 1


def test_closing_stops_in_the_middle_of_a_step(load):
    entered, release = threading.Event(), threading.Event()
    count = []

    class Slow(Numbers):
        def __getitem__(self, index, /):
            count.append(index)
            if len(count) == 3:
                entered.set()
                release.wait(10)
            return super().__getitem__(index)

    loader = load(dataset=Slow(50))
    assert entered.wait(10)
    closer = threading.Thread(target=loader.close)
    closer.start()
    assert loader._shared.closed.wait(10)
    release.set()
    closer.join(10)
    assert len(count) == 3
    assert not [thread for thread in threading.enumerate() if thread.name == "reknit-loader"]


def test_the_context_closes_the_loader(load):
    with load(steps=range(1000)) as loader:
        assert next(loader).step == 0
        assert loader.wait_seconds > 0
    with pytest.raises(RuntimeError, match="closed"):
        next(loader)
