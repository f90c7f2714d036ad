import json
from itertools import accumulate

import pytest
import torch
from torch import nn

from reknit.errors import CheckpointMismatchError
from reknit.state.description import Interval
from reknit.state.intervals import Placed, contiguous_partition
from reknit.state.layout import Holder, StateLayout

SHAPES = {"weight": (3, 5), "bias": (5,), "gain": (1,)}
OPTIMIZERS = ["Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Adadelta", "NAdam", "RAdam", "ASGD"]


def make_optimizer(name: str, tensors: list[torch.Tensor]) -> torch.optim.Optimizer:
    arguments = {"momentum": 0.9} if name == "SGD" else {}
    return getattr(torch.optim, name)(tensors, lr=0.1, **arguments)


def whole_tensors() -> dict[str, nn.Parameter]:
    torch.manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}


def gradient(step: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(step + 1)
    return {name: torch.randn(shape) for name, shape in SHAPES.items()}


class Whole:
    """Every tensor on its own, as in one process."""

    def __init__(self, optimizer: str = "AdamW") -> None:
        self.tensors = whole_tensors()
        self.optimizer = make_optimizer(optimizer, list(self.tensors.values()))

    def step(self, number: int) -> None:
        for name, value in gradient(number).items():
            self.tensors[name].grad = value
        self.optimizer.step()

    @property
    def layout(self) -> StateLayout:
        holders = tuple(
            Holder(tensor, (name,), (Placed(0, Interval(0, tensor.numel()), 0),))
            for name, tensor in self.tensors.items()
        )
        return StateLayout(self.optimizer, SHAPES, holders, replicated=True)


class Partition:
    """One rank's part of all tensors in one flat one, padded."""

    def __init__(self, rank: int, num_ranks: int, optimizer: str = "AdamW") -> None:
        sizes = [torch.Size(shape).numel() for shape in SHAPES.values()]
        length = -(-(sum(sizes) + 1) // num_ranks)
        self.part = Interval(rank * length, (rank + 1) * length)
        self.total = length * num_ranks
        self.placed = tuple(contiguous_partition([0, *accumulate(sizes)][:-1], sizes, self.part))
        self.master = nn.Parameter(self.cut(whole_tensors()))
        self.optimizer = make_optimizer(optimizer, [self.master])

    def cut(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors.values()])
        padded = torch.cat([flat, torch.zeros(self.total - flat.numel())])
        return padded[self.part.start : self.part.stop].clone()

    def step(self, number: int) -> None:
        self.master.grad = self.cut(gradient(number))
        self.optimizer.step()

    @property
    def layout(self) -> StateLayout:
        holder = Holder(self.master, tuple(SHAPES), self.placed)
        return StateLayout(self.optimizer, SHAPES, (holder,), replicated=False)


def states(parts: list) -> list:
    return [part.layout.describe(rank, len(parts)) for rank, part in enumerate(parts)]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("num_ranks", [1, 3, 7])
def test_a_partitioned_state_goes_on_whole_and_back(gather, optimizer, num_ranks):
    reference = Whole(optimizer)
    parts = [Partition(rank, num_ranks, optimizer) for rank in range(num_ranks)]
    for number in range(2):
        reference.step(number)
        for part in parts:
            part.step(number)
    source = gather(states(parts))
    source.scalars = json.loads(json.dumps(source.scalars))
    whole = Whole(optimizer)
    whole.layout.install(source)
    other_parts = [Partition(rank, 2, optimizer) for rank in range(2)]
    again = gather(states([whole] * 4))
    for part in other_parts:
        part.layout.install(again)
    for one in (reference, whole, *other_parts):
        one.step(2)
    end = gather(states(other_parts))
    for name, tensor in reference.tensors.items():
        torch.testing.assert_close(whole.tensors[name], tensor)
        torch.testing.assert_close(end.tensors[f"param/{name}"], tensor.detach().flatten())


def test_before_the_first_step_there_is_no_optimizer_state(gather):
    source = gather(states([Whole()]))
    assert set(source.specs) == {f"param/{name}" for name in SHAPES}
    whole = Whole()
    whole.step(0)
    whole.layout.install(source)
    assert not whole.optimizer.state


def test_other_tensors_are_part_of_the_state(gather):
    def layout(value: float) -> tuple[StateLayout, dict[str, torch.Tensor]]:
        extra = {
            "buffer/mean": torch.full((4,), value),
            "buffer/count": torch.tensor(int(value)),
            "param/frozen": torch.full((2, 2), value, dtype=torch.bfloat16),
        }
        plain = Whole().layout
        return (
            StateLayout(plain.optimizer, plain.shapes, plain.holders, replicated=True, whole=extra),
            extra,
        )

    made, _ = layout(3.0)
    source = gather([made.describe(rank, 3) for rank in range(3)])
    target, extra = layout(5.0)
    target.install(source)
    assert extra["buffer/mean"].tolist() == [3.0] * 4
    assert extra["buffer/count"] == 3
    assert extra["param/frozen"].tolist() == [[3.0, 3.0]] * 2


def test_state_of_another_shape_belongs_to_whole_parameters_only(gather):
    def stepped() -> Whole:
        whole = Whole()
        whole.optimizer = torch.optim.Adafactor(list(whole.tensors.values()))
        whole.step(0)
        return whole

    first = stepped()
    source = gather(states([first, first]))
    assert source.specs["optimizer/row_var/weight"].shape == (3, 1)
    second = stepped()
    second.step(1)
    second.layout.install(source)
    for one in (first, second):
        one.step(2)
    for name, tensor in first.tensors.items():
        assert tensor.equal(second.tensors[name])
    part = Partition(0, 2)
    part.optimizer = torch.optim.Adafactor([part.master])
    with pytest.raises(CheckpointMismatchError, match="cannot be divided"):
        part.layout.install(source)


def test_parameters_that_were_never_updated_have_no_state(gather):
    whole = Whole()
    whole.tensors["weight"].grad = gradient(0)["weight"]
    whole.optimizer.step()
    source = gather(states([whole]))
    assert "optimizer/exp_avg/bias" not in source.specs
    other = Whole()
    other.layout.install(source)
    assert other.optimizer.state[other.tensors["weight"]]["step"] == 1
    assert not other.optimizer.state[other.tensors["bias"]]
    part = Partition(0, 1)
    part.layout.install(source)
    assert part.optimizer.state[part.master]["step"] == 1


def test_different_step_counts_cannot_share_a_flat_tensor(gather):
    whole = Whole()
    whole.step(0)
    whole.tensors["bias"].grad = None
    whole.optimizer.step()
    with pytest.raises(CheckpointMismatchError, match="the optimizer's step differs"):
        Partition(0, 2).layout.install(gather(states([whole])))


def test_a_scalar_parameter_keeps_its_state_apart_from_its_step_count(gather):
    def one() -> StateLayout:
        tensor = nn.Parameter(torch.tensor(2.0))
        tensor.grad = torch.tensor(0.5)
        optimizer = torch.optim.AdamW([tensor])
        optimizer.step()
        holder = Holder(tensor, ("scale",), (Placed(0, Interval(0, 1), 0),))
        return StateLayout(optimizer, {"scale": ()}, (holder,), replicated=True)

    source = gather([one().describe(0, 1)])
    assert set(source.specs) == {
        "param/scale",
        "optimizer/exp_avg/scale",
        "optimizer/exp_avg_sq/scale",
    }
    target = one()
    target.install(source)
    state = target.optimizer.state[target.holders[0].tensor]
    assert state["exp_avg"].shape == ()
    assert state["step"] == 1


def test_numbers_stay_what_they_are(gather):
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for tensor in group["params"]:
                    state = self.state[tensor]
                    state["calls"] = state.get("calls", 0) + 1
            return super().step(closure)

    whole = Whole()
    whole.optimizer = Counting(list(whole.tensors.values()))
    whole.step(0)
    other = Whole()
    other.optimizer = Counting(list(other.tensors.values()))
    other.layout.install(gather(states([whole])))
    assert all(state["calls"] == 1 for state in other.optimizer.state.values())
    assert all(isinstance(state["calls"], int) for state in other.optimizer.state.values())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda source: source.specs.pop("param/bias"), "has no param/bias"),
        (
            lambda source: source.specs.update({"param/more": source.specs["param/bias"]}),
            "holds param/more, which the model does not have",
        ),
        (
            lambda source: source.specs.update({"param/bias": source.specs["param/weight"]}),
            r"param/bias has shape \(3, 5\) there and \(5,\) here",
        ),
        (
            lambda source: source.specs.update(
                {"optimizer/exp_avg/more": source.specs["param/bias"]}
            ),
            "exp_avg of more, which is not trained here",
        ),
        (lambda source: source.scalars.clear(), "with the optimizer None, not AdamW"),
    ],
)
def test_another_model_s_state_is_refused_before_anything_is_changed(gather, change, sentence):
    source = gather(states([Whole()]))
    change(source)
    whole = Whole()
    whole.step(0)
    before = whole.tensors["weight"].clone()
    with pytest.raises(CheckpointMismatchError, match=f"{sentence}.*; run the config.*--resume"):
        whole.layout.install(source)
    assert whole.tensors["weight"].equal(before)


def test_another_optimizer_s_state_is_refused(gather):
    source = gather(states([Whole("SGD")]))
    with pytest.raises(
        CheckpointMismatchError, match="with the optimizer SGD, not AdamW; run the config"
    ):
        Whole().layout.install(source)
