"""Ranges that begin anew, take up another version, and are recorded for a checkpoint."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from reknit.errors import CheckpointMismatchError
from reknit.parameter_server.lookups import Lookups
from reknit.parameter_server.machine import handle
from reknit.parameter_server.messages import (
    Acknowledged,
    Described,
    Joined,
    Kind,
    Pulled,
    Reason,
    Refused,
    Request,
)
from reknit.parameter_server.plan import ParameterSpec, plan_ranges
from reknit.parameter_server.recording import combine_recordings
from reknit.parameter_server.state import (
    Heard,
    Leased,
    RangeState,
    Received,
    Restore,
    Send,
    Tell,
    Viewed,
    new_range,
)
from reknit.parameter_server.table import Consistency, Mode
from reknit.parameter_server.tensors import DENSE, RangeTensors
from reknit.parameter_server.views import Member, View
from reknit.protocol.base import Json
from reknit.state.description import Interval, LocalState, TensorSpec

SYNCHRONOUS = Mode(Consistency.SYNCHRONOUS)
MEMBERS = (Member(0, 1), Member(1, 1))
FOUNDED = View(1, 1, "a", "b", MEMBERS, founds=True)


def run(state: RangeState, *events, now: float = 0.0):
    actions = []
    for event in events:
        state, more = handle(state, event, now)
        actions += more
    return state, actions


def request(kind: Kind, worker=0, clock=0, number=1, incarnation=1, request=7, source=""):
    message = Request(kind, worker, incarnation, number, 1, request, clock, source)
    return Received(message, f"gradient {worker}:{clock}")


def talk(first: RangeState, second: RangeState, sent):
    """Delivers messages between "a" and "b" until there are none; all other actions by server."""
    others: dict[str, list] = {"a": [], "b": []}
    queue = [("a", action) for action in sent]
    while queue:
        sender, action = queue.pop(0)
        if not isinstance(action, Send):
            others[sender].append(action)
        elif action.server == "b":
            second, more = run(second, Heard(action.message, "tensors"))
            queue += [("b", action) for action in more]
        else:
            first, more = run(first, Heard(action.message))
            queue += [("a", action) for action in more]
    return first, second, others


def pair() -> tuple[RangeState, RangeState]:
    """Two servers that held nothing before the view that founds the range."""
    first, second = (new_range(name, SYNCHRONOUS) for name in "ab")
    second, _ = run(second, Viewed(FOUNDED))
    first, sent = run(first, Viewed(FOUNDED), Leased(1, 10.0))
    first, second, _ = talk(first, second, sent)
    return first, second


def replies(actions):
    return [action.reply for action in actions if isinstance(action, Tell)]


def test_both_copies_of_a_range_that_is_founded_are_complete():
    first, second = pair()
    assert first.complete
    assert second.complete
    assert first.applied == second.applied
    assert first.applied.origin == 0


def test_a_founding_view_makes_void_whatever_was_held():
    first, _ = pair()
    first, _ = run(first, request(Kind.PUSH))
    again = View(2, 2, "a", None, MEMBERS, founds=True)
    first, _ = run(first, Viewed(again), Leased(2, 10.0))
    assert first.complete
    assert first.applied.version == 0
    assert first.applied.origin == 0
    assert first.applied.clocks == {0: 0, 1: 0}


def test_a_server_that_has_no_part_in_a_founding_view_is_not_complete():
    state, _ = run(new_range("c", SYNCHRONOUS, holds_since=1), Viewed(FOUNDED))
    assert not state.complete


def test_both_copies_restore_before_it_is_acknowledged():
    first, second = pair()
    first, sent = run(first, request(Kind.RESTORE, clock=4, incarnation=1, source="step-4"))
    assert not replies(sent)
    first, second, others = talk(first, second, sent)
    for name in "ab":
        [restore] = [action for action in others[name] if isinstance(action, Restore)]
        assert (restore.entry.version, restore.entry.source) == (4, "step-4")
    assert replies(others["a"]) == [Acknowledged(7)]
    assert first.applied == second.applied
    assert (first.applied.version, first.applied.clocks) == (4, {0: 4, 1: 4})


def test_the_same_restore_counts_once():
    first, second = pair()
    first, sent = run(first, request(Kind.RESTORE, clock=4))
    first, second, _ = talk(first, second, sent)
    _, actions = run(first, request(Kind.RESTORE, clock=4, request=8))
    assert replies(actions) == [Acknowledged(8)]
    assert not [action for action in actions if isinstance(action, Send | Restore)]


def test_a_backup_that_takes_over_knows_the_origin():
    first, second = pair()
    first, sent = run(first, request(Kind.RESTORE, clock=4))
    _, second, _ = talk(first, second, sent)
    view = View(2, 1, "b", None, MEMBERS)
    _, actions = run(second, Viewed(view), Leased(2, 10.0), request(Kind.JOIN, number=2, request=9))
    assert replies(actions) == [Joined(9, 4, 1, origin=1)]


def test_what_was_collected_of_a_step_is_void_after_a_restore():
    first, second = pair()
    first, sent = run(first, request(Kind.PUSH), request(Kind.RESTORE, clock=0, request=8))
    first, second, _ = talk(first, second, sent)
    assert first.applied.pending == {}
    assert first.applied.clocks == {0: 0, 1: 0}


def test_the_newest_version_alone_can_be_described():
    first, second = pair()
    first, sent = run(first, request(Kind.RESTORE, clock=4))
    first, second, _ = talk(first, second, sent)
    asked = request(Kind.DESCRIBE, clock=4, request=8)
    assert replies(run(first, asked)[1]) == [Described(8, 4)]
    first, sent = run(first, request(Kind.PUSH, 0, 4, request=9), request(Kind.PUSH, 1, 4))
    first, second, _ = talk(first, second, sent)
    assert replies(run(first, asked)[1]) == [Refused(8, Reason.GONE)]
    assert replies(run(first, request(Kind.PULL, clock=4, request=10))[1]) == [Pulled(10, 4)]


SPECS = (
    ParameterSpec("w", (5, 3)),
    ParameterSpec("b", (7,)),
    ParameterSpec("table", (9, 2), is_table=True),
)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=0.1)


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def values(name: str, span: Interval) -> torch.Tensor:
    shape = next(spec.shape for spec in SPECS if spec.name == name)
    whole = torch.randn(shape, generator=torch.Generator().manual_seed(len(name)))
    return whole.view(-1)[span.start : span.stop]


def ranges(schedule=None) -> list[RangeTensors]:
    plan = plan_ranges(SPECS, 2)
    made = [
        RangeTensors(plan, number, adam, keeps_previous=True, schedule=schedule)
        for number in range(2)
    ]
    for part in made:
        part.read(values)
    return made


def step(parts: list[RangeTensors], number: int) -> None:
    for part in parts:
        gradient = {DENSE: torch.full((len(part.weights(WISH, previous=False)[DENSE]),), 0.1)}
        rows = part.snapshot()[0]["table/2"].shape[0]
        first = 0 if part is parts[0] else 9 - rows
        gradient["rows/2"] = torch.tensor([first + number % rows])
        gradient["values/2"] = torch.ones(1, 2)
        part.apply([gradient])


WISH = {DENSE: torch.empty(0)}


class Checkpoint:
    """The state that ranges have recorded, as if it had been written and read."""

    def __init__(self, parts: list[RangeTensors], updates: int) -> None:
        self.state: LocalState = combine_recordings([part.describe(whole=True) for part in parts])
        self.specs = {**self.state.specs, "buffer/mean": TensorSpec((1,), torch.float32)}
        self.scalars: dict[str, Json] = {**self.state.scalars, "updates": updates}

    def read(self, name: str, interval: Interval) -> torch.Tensor:
        whole = torch.full((self.specs[name].num_elements,), torch.nan)
        for piece in self.state.pieces:
            if piece.name == name:
                whole[piece.interval.start : piece.interval.stop] = piece.data
        return whole[interval.start : interval.stop]


def equal(one: list[RangeTensors], other: list[RangeTensors]) -> bool:
    return all(
        torch.equal(value, second.snapshot()[0][name])
        for first, second in zip(one, other, strict=True)
        for name, value in first.snapshot()[0].items()
        if name != "previous" and not name.startswith("undo")
    )


def test_ranges_go_on_from_what_was_recorded_of_them():
    parts = ranges(halving)
    for number in range(3):
        step(parts, number)
    checkpoint = Checkpoint(parts, 3)
    others = ranges(halving)
    for part in others:
        part.restore(checkpoint)
    assert equal(parts, others)
    for number in range(3, 6):
        step(parts, number)
        step(others, number)
    assert equal(parts, others)
    assert [part.optimizer.param_groups[0]["lr"] for part in (*parts, *others)] == [0.1 / 8] * 4


def test_a_recording_has_every_element_once():
    parts = ranges()
    step(parts, 0)
    state = combine_recordings([part.describe(whole=True) for part in parts])
    for name, spec in state.specs.items():
        spans = sorted((p.interval.start, p.interval.stop) for p in state.pieces if p.name == name)
        assert spans[0][0] == 0
        assert spans[-1][1] == spec.num_elements
        assert all(a[1] == b[0] for a, b in pairwise(spans)), name


def test_a_range_of_which_nothing_is_wanted_still_names_its_tensors():
    parts = ranges()
    step(parts, 0)
    whole = combine_recordings([part.describe(whole=True) for part in parts])
    half = combine_recordings(
        [parts[0].describe(whole=True), parts[1].describe(whole=False)],
    )
    assert half.specs == whole.specs
    assert half.scalars == whole.scalars
    assert len(half.pieces) < len(whole.pieces)


def test_the_checkpoint_of_another_model_is_refused():
    parts = ranges()
    checkpoint = Checkpoint(parts, 0)
    checkpoint.specs["param/w"] = TensorSpec((5, 4), torch.float32)
    with pytest.raises(CheckpointMismatchError, match=r"param/w has shape \(5, 4\) there"):
        parts[0].restore(checkpoint)


def test_a_snapshot_brings_the_learning_rate_along():
    [part, _], [other, _] = ranges(halving), ranges(halving)
    step([part], 0)
    step([part], 1)
    other.install(*part.snapshot())
    assert other.optimizer.param_groups[0]["lr"] == 0.05


def test_reading_initial_values_begins_anew():
    parts, fresh = ranges(halving), ranges(halving)
    for number in range(3):
        step(parts, number)
    for part in parts:
        part.read(values)
    step(parts, 0)
    step(fresh, 0)
    assert equal(parts, fresh)


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(6, 2, sparse=True)
        self.bags = nn.EmbeddingBag(4, 2, sparse=True)
        self.dense = nn.Embedding(3, 2)

    def forward(self, words, bags):
        return self.words(words).sum() + self.bags(input=bags).sum() + self.dense.weight.sum()


def test_rows_are_fetched_once_per_version_and_before_they_are_read():
    model = Bags()
    specs = [
        ParameterSpec(n, tuple(p.shape), "dense" not in n) for n, p in model.named_parameters()
    ]
    fetched: list[tuple[str, list[int]]] = []
    lookups = Lookups(
        model, plan_ranges(specs, 2), lambda name, rows: fetched.append((name, rows.tolist()))
    )
    bags = torch.tensor([[1, 1]])
    model(torch.tensor([4, 2, 4]), bags)
    assert fetched == [("words.weight", [2, 4]), ("bags.weight", [1])]
    model(torch.tensor([2, 5]), bags)
    assert fetched[2:] == [("words.weight", [5])]
    lookups.forget()
    model(torch.tensor([2]), bags)
    assert fetched[3:] == [("words.weight", [2]), ("bags.weight", [1])]
