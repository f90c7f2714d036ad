"""The tensors of ranges against plain torch on whole parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from reknit.errors import ConfigurationError
from reknit.parameter_server.plan import ParameterSpec, Plan, plan_ranges
from reknit.parameter_server.tensors import DENSE, RangeTensors
from reknit.state.description import Interval, LocalState

SPECS = (ParameterSpec("w", (5, 3)), ParameterSpec("scale", ()), ParameterSpec("b", (7,)))
WITH_TABLE = (*SPECS, ParameterSpec("table", (9, 2), is_table=True))
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.1),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.5),
    "Rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "by dimensions": lambda p: torch.optim.AdamW(
        [
            {"params": [x for x in p if x.ndim >= 2], "weight_decay": 0.3},
            {"params": [x for x in p if x.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.1,
    ),
}


def values(spec: ParameterSpec, seed: int) -> torch.Tensor:
    return torch.randn(spec.shape, generator=torch.Generator().manual_seed(seed))


def initial(plan: Plan) -> dict[str, torch.Tensor]:
    return {spec.name: values(spec, seed) for seed, spec in enumerate(plan.specs)}


def ranges(specs, num_ranges, optimizer, *, keeps_previous=False) -> list[RangeTensors]:
    plan = plan_ranges(specs, num_ranges)
    found = initial(plan)
    made = []
    for number in range(num_ranges):
        tensors = RangeTensors(plan, number, optimizer, keeps_previous=keeps_previous)
        tensors.read(lambda name, span: found[name].view(-1)[span.start : span.stop])
        made.append(tensors)
    return made


def gradient(plan: Plan, number: int, step: int, worker: int = 0) -> dict[str, torch.Tensor]:
    """A range's part of the gradient that a worker computes in a step; tables have none."""
    flat = [values(spec, 1000 * step + 10 * worker + i).view(-1) for i, spec in dense(plan)]
    stretch = plan.ranges[number].stretch
    return {DENSE: torch.cat(flat)[stretch.start : stretch.stop]}


def dense(plan: Plan):
    return [(index, spec) for index, spec in enumerate(plan.specs) if not spec.is_table]


def whole(plan: Plan, parts: list[RangeTensors], *, previous: bool = False) -> torch.Tensor:
    wish = {DENSE: torch.empty(0)}
    return torch.cat([part.weights(wish, previous=previous)[DENSE] for part in parts])


def plain(plan: Plan, optimizer, steps: int, num_workers: int = 1) -> torch.Tensor:
    """Whole parameters under plain torch, flat."""
    start = initial(plan)
    parameters = [nn.Parameter(start[spec.name].clone()) for spec in plan.specs]
    made = optimizer(parameters)
    for step in range(steps):
        for index, spec in dense(plan):
            total = values(spec, 1000 * step + index)
            for worker in range(1, num_workers):
                total += values(spec, 1000 * step + 10 * worker + index)
            parameters[index].grad = total
        made.step()
    return torch.cat([parameters[index].detach().view(-1) for index, _ in dense(plan)])


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_ranges", [1, 2, 5])
def test_ranges_come_to_the_bits_of_whole_parameters(name, num_ranges):
    optimizer = OPTIMIZERS[name]
    parts = ranges(SPECS, num_ranges, optimizer)
    plan = plan_ranges(SPECS, num_ranges)
    for step in range(4):
        for number, part in enumerate(parts):
            part.apply([gradient(plan, number, step, worker) for worker in range(3)])
    assert torch.equal(whole(plan, parts), plain(plan, optimizer, 4, num_workers=3))


def push_rows(part: RangeTensors, rows: list[int], scale: float) -> dict[str, torch.Tensor]:
    indices = torch.tensor(rows)
    width = 2
    numbers = torch.arange(len(rows) * width, dtype=torch.float32).view(-1, width)
    content = {"rows/3": indices, "values/3": scale * (numbers + 1)}
    return content | {DENSE: torch.zeros(len(SPECS) and 23)}


def table_of(part: RangeTensors) -> torch.Tensor:
    return part.weights({"rows/3": torch.arange(9)}, previous=False)["values/3"]


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adagrad", "Rprop", "NAdam"])
def test_touched_rows_train_like_a_small_table_of_their_own(name):
    """Rows 1, 4 and 8 in every step: the others stay, these come to the bits of three rows."""
    (part,) = ranges(WITH_TABLE, 1, OPTIMIZERS[name])
    before = table_of(part)
    alone = nn.Parameter(before[[1, 4, 8]].clone())
    optimizer = OPTIMIZERS[name]([alone])
    for step in range(4):
        content = push_rows(part, [1, 4, 8], (-1) ** step * (step + 1.0))
        part.apply([content])
        alone.grad = content["values/3"].clone()
        optimizer.step()
    after = table_of(part)
    assert torch.equal(after[[1, 4, 8]], alone.detach())
    others = [0, 2, 3, 5, 6, 7]
    assert torch.equal(after[others], before[others])


@pytest.mark.parametrize(
    ("ours", "sparse"),
    [
        (lambda p: torch.optim.SGD(p, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
        (lambda p: torch.optim.Adagrad(p, lr=0.1), lambda p: torch.optim.Adagrad(p, lr=0.1)),
        (lambda p: torch.optim.Adam(p, lr=0.1), lambda p: torch.optim.SparseAdam(p, lr=0.1)),
    ],
)
def test_changing_rows_train_as_with_torchs_sparse_gradients(ours, sparse):
    (part,) = ranges(WITH_TABLE, 1, ours)
    reference = nn.Parameter(table_of(part).clone())
    optimizer = sparse([reference])
    for rows in ([0, 3], [3, 7, 8], [1], [0, 1, 2, 3]):
        content = push_rows(part, rows, 1.0)
        part.apply([content])
        with torch.sparse.check_sparse_tensor_invariants():
            reference.grad = torch.sparse_coo_tensor(
                content["rows/3"][None], content["values/3"], (9, 2)
            )
            optimizer.step()
    torch.testing.assert_close(table_of(part), reference.detach())


def test_pushed_rows_are_summed_before_the_step():
    sgd = OPTIMIZERS["SGD"]
    (one,), (other,) = ranges(WITH_TABLE, 1, sgd), ranges(WITH_TABLE, 1, sgd)
    one.apply([push_rows(one, [1, 2], 1.0), push_rows(one, [2, 5], 10.0)])
    summed = push_rows(other, [1, 2, 5], 0.0)
    summed["values/3"] = torch.tensor([[1.0, 2.0], [13.0, 24.0], [30.0, 40.0]])
    other.apply([summed])
    assert torch.equal(table_of(one), table_of(other))


def test_the_previous_version_can_be_had_until_the_next_but_one():
    (part,) = ranges(WITH_TABLE, 1, OPTIMIZERS["AdamW"], keeps_previous=True)
    wish = {DENSE: torch.empty(0), "rows/3": torch.arange(9)}
    part.apply([push_rows(part, [0, 4], 1.0)])
    first = {name: t.clone() for name, t in part.weights(wish, previous=False).items()}
    part.apply([push_rows(part, [4, 6], 2.0)])
    previous = part.weights(wish, previous=True)
    assert all(torch.equal(previous[name], first[name]) for name in first)
    assert not torch.equal(part.weights(wish, previous=False)["values/3"], first["values/3"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_copy_from_a_snapshot_goes_on_with_the_same_bits(name):
    (one,) = ranges(WITH_TABLE, 1, OPTIMIZERS[name], keeps_previous=True)
    for rows in ([0, 3], [3, 7]):
        one.apply([push_rows(one, rows, 1.5) | gradient(plan_ranges(WITH_TABLE, 1), 0, 1)])
    (other,) = ranges(WITH_TABLE, 1, OPTIMIZERS[name], keeps_previous=True)
    other.install(*one.snapshot())
    wish = {DENSE: torch.empty(0), "rows/3": torch.arange(9)}
    for previous in (True, False):
        found = [part.weights(wish, previous=previous) for part in (one, other)]
        assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    for part in (one, other):
        part.apply([push_rows(part, [0, 5], 1.0) | gradient(plan_ranges(WITH_TABLE, 1), 0, 2)])
    found = [part.weights(wish, previous=False) for part in (one, other)]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def merged(states):
    """Single numbers of all ranges; each range knows those of its own parameters."""
    numbers = {}
    for state in states:
        for key, entry in state["numbers"].items():
            known = numbers.setdefault(key, {"dtype": entry["dtype"], "values": {}})
            values = entry["values"]
            is_shared = not isinstance(values, dict)
            known["values"] |= dict.fromkeys(("w", "scale", "b"), values) if is_shared else values
    return {"class": states[0]["class"], "numbers": numbers}


class Source:
    """The states of all ranges, as a checkpoint holds them."""

    def __init__(self, states: list[LocalState]) -> None:
        self.specs = {name: spec for state in states for name, spec in state.specs.items()}
        self.scalars = {"optimizer": merged([state.scalars["optimizer"] for state in states])}
        self._whole = {n: torch.zeros(s.num_elements, dtype=s.dtype) for n, s in self.specs.items()}
        for state in states:
            for piece in state.written:
                self._whole[piece.name][piece.interval.start : piece.interval.stop] = piece.data

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        return self._whole[name][interval.start : interval.stop].clone()


def test_a_state_of_two_ranges_goes_on_in_three():
    plans = {number: plan_ranges(SPECS, number) for number in (2, 3)}
    two = ranges(SPECS, 2, OPTIMIZERS["AdamW"])
    for step in range(2):
        for number, part in enumerate(two):
            part.apply([gradient(plans[2], number, step)])
    states = [part.layout().describe(number, 2) for number, part in enumerate(two)]
    three = ranges(SPECS, 3, OPTIMIZERS["AdamW"])
    for part in three:
        part.layout().install(Source(states))
    for number, part in enumerate(three):
        part.refresh()
        part.apply([gradient(plans[3], number, 2)])
    assert torch.equal(whole(plans[3], three), plain(plans[3], OPTIMIZERS["AdamW"], 3))


@pytest.mark.parametrize(
    ("content", "is_gradient", "problem"),
    [
        ({DENSE: torch.zeros(23)}, True, None),
        ({DENSE: torch.zeros(22)}, True, "dense has shape"),
        ({DENSE: torch.zeros(23, dtype=torch.int64)}, True, "dense has shape"),
        ({}, True, "dense gradient is missing"),
        ({DENSE: torch.zeros(23), "rows/9": torch.zeros(1)}, True, "has no rows/9"),
        ({"rows/3": torch.tensor([0, 8])}, False, None),
        ({"rows/3": torch.tensor([0, 9])}, False, "outside of 0..9"),
        ({"rows/3": torch.tensor([-1])}, False, "outside of 0..9"),
        ({"rows/3": torch.tensor([1, 1])}, False, "do not ascend"),
        ({"rows/3": torch.tensor([1.0])}, False, "no int64 vector"),
        ({"values/3": torch.zeros(1, 2)}, False, "has no values/3"),
        ({DENSE: torch.zeros(23), "values/3": torch.zeros(1, 2)}, True, "values without rows"),
        ({DENSE: torch.zeros(23), "rows/3": torch.tensor([1])}, True, "values do not fit"),
        ({DENSE: torch.zeros(3)}, False, "dense has shape"),
    ],
)
def test_what_does_not_fit_is_told(content, is_gradient, problem):
    (part,) = ranges(WITH_TABLE, 1, OPTIMIZERS["SGD"])
    found = part.misfit(content, is_gradient=is_gradient)
    assert found is None if problem is None else problem in found


@pytest.mark.parametrize(
    "optimizer",
    [
        torch.optim.LBFGS,
        torch.optim.SparseAdam,
        lambda p: torch.optim.Adafactor(p, lr=0.1),
    ],
)
def test_optimizers_that_need_whole_tensors_are_refused(optimizer):
    with pytest.raises(ConfigurationError, match="element by element"):
        ranges((ParameterSpec("w", (4, 4)),), 2, optimizer)
