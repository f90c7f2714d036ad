"""Tables and the plan on the screen."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from reknit.layout import Degrees, Sharding
from reknit.protocol.inspection import Inspection, StageInfo
from reknit.protocol.settings import (
    BatchSettings,
    CommunicationSettings,
    JobSettings,
    RoundSettings,
    ServerSettings,
)
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.cautions import idle_work
from reknit_operator.cli.manifests import local_settings
from reknit_operator.cli.planview import MAX_SEATS, seat_rows, show_plan
from reknit_operator.cli.tables import Column, aligned, show_table
from reknit_operator.planning.plan import Plan, make_plan
from reknit_operator.planning.world import seats

COLUMNS = [Column("name"), Column("number", right=True)]
ROWS = [["a", "1"], ["long name", "1000000"]]


@pytest.fixture
def settings(job: DistributedTrainingJob) -> JobSettings:
    return local_settings(job, Path("runs/tiny-1"))


def shown(plan: Plan, *, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120, no_color=True)
    show_plan(console, plan)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_plain_tables_are_aligned() -> None:
    assert aligned(COLUMNS, ROWS) == [
        "name        number",
        "a                1",
        "long name  1000000",
    ]


def test_a_table_without_rows_is_its_head() -> None:
    assert aligned(COLUMNS, []) == ["name  number"]


def test_a_terminal_gets_rules_and_everything_else_does_not() -> None:
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
        show_table(console, COLUMNS, ROWS, marked=0)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert ("─" in text) is terminal
        assert ("\x1b[" in text) is terminal
        assert "1000000" in text


def test_stages_and_what_their_schedule_costs(
    settings: JobSettings, inspection: Inspection
) -> None:
    piped = settings.model_copy(
        update={
            "degrees": Degrees(pipeline=4),
            "num_workers": 4,
            "processes_per_worker": 1,
            "batch": BatchSettings(global_batch=32, micro=4),
        }
    )
    stages = tuple(
        StageInfo(layers=(f"a{number}", f"b{number}"), num_elements=1000) for number in range(4)
    )
    text = shown(make_plan(piped, inspection.model_copy(update={"stages": stages})))
    assert "3  3      a3 to b3" in text
    assert "OneForwardOneBackward with 8 micro-batches in each pipeline" in text
    assert "a rank waits for 27.3% of a step" in text
    assert "keeps the activations of 4 passes at a time" in text


@pytest.mark.parametrize("terminal", [True, False])
def test_the_plan_answers_the_questions(
    settings: JobSettings, inspection: Inspection, terminal: bool
) -> None:
    text = shown(make_plan(settings, inspection), terminal=terminal)
    for part in (
        "2 ranks in 2 pods with 1 process each",
        "300 trainable parameters, updated by SGD",
        "4 steps, 0.32 epochs of 100 samples",
        "a batch of 8 samples is 4 micro-batches of 2; each rank accumulates gradients over 2",
        "tiny-worker-1",
        "None (chosen)",
        "ZeRO3",
        "If more is lost at once, state comes from the newest checkpoint, at most 10 min old.",
        "any other rank",
        "a copy that a rank in another pod keeps",
        "all ranks but one",
        "Each pod also has a parked process",
        "1.2 KiB for the model",
        "activations are not known",
        "forked from a process",
    ):
        assert part in text


def test_lines_are_not_broken_outside_a_terminal(
    settings: JobSettings, inspection: Inspection
) -> None:
    console = Console(file=io.StringIO(), width=20)
    show_plan(console, make_plan(settings, inspection))
    assert isinstance(console.file, io.StringIO)
    assert "each rank accumulates gradients over 2\n" in console.file.getvalue()


def rounds(settings: JobSettings, batch: BatchSettings, ranks: int, **changes: Any) -> JobSettings:
    communication = CommunicationSettings(rounds=RoundSettings(**changes))
    return settings.model_copy(
        update={"num_workers": ranks, "batch": batch, "communication": communication}
    )


@pytest.mark.parametrize(
    ("passes", "parts"),
    [(1, "800 samples is 100 micro-batches"), (2, "1,600 samples is 200 micro-batches")],
)
def test_in_rounds_micro_batches_are_those_of_local_steps(
    settings: JobSettings, inspection: Inspection, passes: int, parts: str
) -> None:
    batch = BatchSettings(global_batch=800 * passes, micro=8)
    text = shown(make_plan(rounds(settings, batch, 4, local_steps=25), inspection))
    assert "a step is a round: each rank takes 25 steps alone in it\n" in text
    assert f"a batch of {parts} of 8; each step of a rank takes {passes} of them" in text
    assert "accumulates" not in text


@pytest.mark.parametrize(
    ("ranks", "mean"),
    [(2, "20 per rank on average"), (3, "13.33 per rank on average")],
)
def test_clients_take_steps_wherever_they_are_at_home(
    settings: JobSettings, inspection: Inspection, ranks: int, mean: str
) -> None:
    batch = BatchSettings(global_batch=640, micro=16)
    plan = make_plan(
        rounds(settings, batch, ranks, local_steps=10, clients_per_round=4), inspection
    )
    text = shown(plan)
    assert f"a step is a round: each of 4 clients takes 10 steps alone in it, {mean}" in text
    assert "40 micro-batches of 16; each step of a client takes 1 of them" in text
    assert "accumulates" not in text
    # Who has nothing to do is drawn anew for each round.
    assert plan.batch is not None
    assert plan.batch.idle_ranks == ()


def test_idle_work_is_told_with_a_remedy(settings: JobSettings, inspection: Inspection) -> None:
    odd = settings.model_copy(update={"batch": BatchSettings(global_batch=6, micro=2)})
    assert list(idle_work(make_plan(odd, inspection))) == [
        "1 rank runs a last pass of weight 0, so 25% of the work is idle: lower batch.micro or "
        "workers"
    ]
    assert list(idle_work(make_plan(settings, inspection))) == []


def test_zero_that_cannot_be_used_is_told_once(
    settings: JobSettings, inspection: Inspection
) -> None:
    muon = inspection.model_copy(update={"elementwise": False, "optimizer": "torch.optim.Muon"})
    assert shown(make_plan(settings, muon)).count("Sharding cannot be used: Muon needs") == 1


def test_a_copy_that_cannot_follow_is_told(settings: JobSettings, inspection: Inspection) -> None:
    own = inspection.model_copy(update={"shadowable": False, "optimizer": "mine.Lion"})
    assert "Copies cannot take the steps of Lion" in shown(make_plan(settings, own))
    assert "Copies cannot" not in shown(make_plan(settings, inspection))


def test_a_command_is_shown_without_memory(settings: JobSettings) -> None:
    changes: dict[str, Any] = {"function": None, "command": ("python", "x.py"), "batch": None}
    text = shown(make_plan(settings.model_copy(update=changes), None))
    assert "Memory" not in text
    assert "the command is started again in the same pods" in text


def test_the_chosen_sharding_is_marked(settings: JobSettings, inspection: Inspection) -> None:
    zero = settings.model_copy(update={"sharding": Sharding.ZERO2})
    text = shown(make_plan(zero, inspection))
    assert "ZeRO2 (chosen)" in text
    assert text.count("(chosen)") == 1


def test_a_large_world_shows_its_ends() -> None:
    rows = seat_rows(list(seats("big", 8, Degrees(data=1000))))
    assert len(rows) == MAX_SEATS
    assert rows[0][0] == "0"
    assert rows[-1][0] == "999"
    assert set(rows[MAX_SEATS - 4]) == {"..."}
    assert len(seat_rows(list(seats("small", 8, Degrees(data=MAX_SEATS))))) == MAX_SEATS


def test_a_plan_with_parameter_servers_shows_what_each_of_them_holds(
    settings: JobSettings, inspection: Inspection
) -> None:
    servers = ServerSettings(num_servers=2)
    plan = make_plan(settings.model_copy(update={"servers": servers}), inspection)
    text = shown(plan)
    assert "Memory per parameter server" in text
    assert f"{settings.name}-server-1  1                 0" in text
    assert "Servers that may be lost at once: any server." in text
    assert "sharding" not in text
