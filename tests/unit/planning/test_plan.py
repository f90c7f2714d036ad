"""The whole plan, and its smaller parts."""

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import BatchPlan, Degrees, Sharding
from reknit.mesh import Mesh
from reknit.protocol.inspection import Inspection, StageInfo
from reknit.protocol.settings import CheckpointSettings, JobSettings
from reknit_operator.planning.batches import arithmetic
from reknit_operator.planning.plan import Plan, cut_obstacle, make_plan
from reknit_operator.planning.redundancy import last_resort, redundancy
from reknit_operator.planning.world import seats


def test_ranks_fill_pod_after_pod() -> None:
    found = list(seats("job", 2, Degrees(data=4)))
    assert [(s.rank, s.pod, s.slot, s.data) for s in found] == [
        (0, "job-worker-0", 0, 0),
        (1, "job-worker-0", 1, 1),
        (2, "job-worker-1", 0, 2),
        (3, "job-worker-1", 1, 3),
    ]


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 5))
def test_every_coordinate_has_one_rank(data: int, pipeline: int, tensor: int) -> None:
    found = list(seats("job", 1, Degrees(data=data, pipeline=pipeline, tensor=tensor)))
    places = {(s.data, s.pipeline, s.tensor) for s in found}
    assert len(places) == len(found) == data * pipeline * tensor
    assert all(s.data < data and s.pipeline < pipeline and s.tensor < tensor for s in found)


def test_tensor_neighbours_sit_side_by_side() -> None:
    found = list(seats("job", 2, Degrees(data=2, pipeline=1, tensor=2)))
    assert [s.tensor for s in found] == [0, 1, 0, 1]
    assert found[0].pod == found[1].pod


def test_an_even_batch_leaves_nobody_idle() -> None:
    found = arithmetic(BatchPlan(global_batch=64, micro=8, num_ranks=4))
    assert (found.num_micro_batches, found.passes_per_rank, found.idle_ranks) == (8, 2, ())
    assert found.idle_share == 0


def test_passes_of_weight_zero_are_named() -> None:
    found = arithmetic(BatchPlan(global_batch=40, micro=8, num_ranks=4))
    assert (found.num_micro_batches, found.passes_per_rank) == (5, 2)
    assert found.idle_ranks == (1, 2, 3)
    assert found.idle_share == 3 / 8


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_idle_passes_fill_the_batch_up_to_the_ranks(micro: int, count: int, ranks: int) -> None:
    found = arithmetic(BatchPlan(global_batch=micro * count, micro=micro, num_ranks=ranks))
    assert found.num_micro_batches + len(found.idle_ranks) == found.passes_per_rank * ranks


def pods(*sizes: int) -> list[str]:
    """The pods of the ranks of a world with pods of these sizes."""
    return [f"worker-{pod}" for pod, size in enumerate(sizes) for _ in range(size)]


@pytest.mark.parametrize(
    ("sharding", "copies", "parameters", "optimizer"),
    [
        (Sharding.NONE, 0, 4, 4),
        (Sharding.NONE, 2, 4, 4),
        (Sharding.ZERO1, 0, 4, 1),
        (Sharding.ZERO2, 1, 4, 2),
        (Sharding.ZERO3, 0, 1, 1),
        (Sharding.ZERO3, 2, 3, 3),
    ],
)
def test_who_holds_what(sharding: Sharding, copies: int, parameters: int, optimizer: int) -> None:
    found = redundancy(sharding, Mesh(4), pods(2, 2), copies, "the newest checkpoint")
    assert (found.parameter_copies, found.optimizer_copies) == (parameters, optimizer)


NEIGHBOURS = "any 2 ranks of which neither keeps the other's copy"


@pytest.mark.parametrize(
    ("world", "copies", "replicated", "sharded"),
    [
        (pods(1), 2, None, None),
        (pods(2, 2), 0, "all ranks but one", None),
        (pods(2, 2), 1, "all ranks but one", f"any pod; {NEIGHBOURS}"),
        (pods(2, 2), 2, "all ranks but one", "any pod; any 2 ranks"),
        (pods(2, 2, 2), 2, "all ranks but one", "any 2 pods"),
        (pods(1, 1), 1, "all ranks but one", "all ranks but one"),
        (pods(1, 1, 1), 1, "all ranks but one", "any pod"),
        (pods(1, 1, 1, 1), 1, "all ranks but one", f"any pod; {NEIGHBOURS}"),
        (pods(4), 1, "all ranks but one", f"any rank; {NEIGHBOURS}"),
        (pods(4), 2, "all ranks but one", "any 2 ranks"),
    ],
)
def test_what_may_be_lost_at_once(
    world: list[str], copies: int, replicated: str | None, sharded: str | None
) -> None:
    for sharding in Sharding:
        found = redundancy(sharding, Mesh(len(world)), world, copies, "nowhere")
        assert found.survivable == (replicated if sharding is Sharding.NONE else sharded)


@pytest.mark.parametrize(
    ("world", "copies", "replicated", "sharded"),
    [
        (pods(2, 2), 0, "any other rank", "the newest checkpoint"),
        (pods(2, 2), 1, "any other rank", "a copy that a rank in another pod keeps"),
        (pods(4), 1, "any other rank", "a copy that a rank in the same pod keeps"),
        (pods(1), 1, "the newest checkpoint", "the newest checkpoint"),
    ],
)
def test_where_lost_state_comes_from(
    world: list[str], copies: int, replicated: str, sharded: str
) -> None:
    for sharding in Sharding:
        found = redundancy(sharding, Mesh(len(world)), world, copies, "the newest checkpoint")
        assert found.source.startswith(replicated if sharding is Sharding.NONE else sharded)


@pytest.mark.parametrize(
    ("mesh", "world", "copies", "source", "survivable"),
    [
        (Mesh(2, 2), pods(1, 1, 1, 1), 0, "another rank with the same part", "any pod"),
        (Mesh(2, 2), pods(2, 2), 0, "another rank with the same part", "any rank"),
        (Mesh(2, 2), pods(2, 2), 1, "a copy that a rank in another pod", "all ranks but one"),
        (Mesh(1, 4), pods(2, 2), 0, "the newest checkpoint", None),
        (Mesh(1, 4), pods(2, 2), 1, "a copy that a rank in another pod", f"any pod; {NEIGHBOURS}"),
        (Mesh(3, 2), pods(2, 2, 2), 0, "another rank with the same part", "any pod"),
    ],
)
def test_stages_have_replicas_along_the_data_axis(
    mesh: Mesh, world: list[str], copies: int, source: str, survivable: str | None
) -> None:
    found = redundancy(Sharding.NONE, mesh, world, copies, "the newest checkpoint")
    assert found.source.startswith(source)
    if survivable is None:
        assert found.survivable is None
    else:
        assert found.survivable is not None
        assert found.survivable.startswith(survivable)


STAGES = (
    StageInfo(layers=("a",), num_elements=800),
    StageInfo(layers=("b", "c"), num_elements=200),
)


@pytest.fixture
def piped(settings: JobSettings) -> JobSettings:
    """Two pipelines of two stages, a stage in each pod."""
    return settings.model_copy(update={"degrees": Degrees(pipeline=2)})


def test_a_pipeline_is_planned_stage_by_stage(piped: JobSettings, inspection: Inspection) -> None:
    plan = make_plan(piped, inspection.model_copy(update={"stages": STAGES}))
    assert plan.pipeline is not None
    assert [(s.ranks, s.first, s.last, s.num_elements) for s in plan.pipeline.stages] == [
        ((0, 1), "a", "a", 800),
        ((2, 3), "b", "c", 200),
    ]
    # Eight micro-batches in two pipelines.
    assert plan.pipeline.num_micro_batches == 4
    assert plan.pipeline.bubble == 1 / 5
    assert plan.pipeline.in_flight == 2


def test_every_rank_has_room_for_the_fullest_stage(
    piped: JobSettings, inspection: Inspection
) -> None:
    changes = {"stages": STAGES, "activation_bytes": {Sharding.NONE: 6000}}
    [choice] = make_plan(piped, inspection.model_copy(update=changes)).choices
    memory = choice.memory
    # 800 trained elements, 100 frozen ones and the buffer; two tensors of Adam's.
    assert memory.parameters == 4 * 900 + 80
    assert memory.gradients == 4 * 800
    assert memory.optimizer == 8 * 800
    assert memory.activations == 6000 * 2 // 2
    # Both ranks of a stage share a pod, so that a copy is kept in the other one.
    assert memory.copies == 16 * 800
    assert choice.redundancy.survivable == "all ranks but one"


def test_stages_with_replicas_in_other_pods_need_no_copies(
    piped: JobSettings, inspection: Inspection
) -> None:
    spread = piped.model_copy(update={"num_workers": 4, "processes_per_worker": 1})
    [choice] = make_plan(spread, inspection.model_copy(update={"stages": STAGES})).choices
    assert choice.memory.copies == 0
    assert choice.redundancy.source == "another rank with the same part of the model"


@pytest.mark.parametrize(
    ("seconds", "steps", "text"),
    [
        (600.0, None, "the newest checkpoint, at most 10 min old"),
        (7200.0, None, "the newest checkpoint, at most 2 h old"),
        (90.0, None, "the newest checkpoint, at most 90 s old"),
        (None, 20, "the newest checkpoint, at most 20 steps old"),
        (600.0, 20, "the newest checkpoint, at most 20 steps or 10 min old"),
    ],
)
def test_how_old_a_checkpoint_can_be(seconds: float | None, steps: int | None, text: str) -> None:
    checkpoint = CheckpointSettings(path="c", every_seconds=seconds, every_steps=steps)
    assert last_resort(checkpoint) == text


def test_a_cluster_may_have_no_place_for_checkpoints() -> None:
    found = last_resort(CheckpointSettings(path="c"), only_local=True)
    assert found == "the newest checkpoint of a local run, at most 10 min old"


def test_without_checkpoints_training_starts_again() -> None:
    assert last_resort(None).startswith("nowhere: training starts again")


def test_a_plan_compares_all_shardings_and_marks_the_chosen_one(
    settings: JobSettings, inspection: Inspection
) -> None:
    chosen = settings.model_copy(update={"sharding": Sharding.ZERO2})
    plan = make_plan(chosen, inspection)
    assert [choice.sharding for choice in plan.choices] == list(Sharding)
    assert [choice.sharding for choice in plan.choices if choice.chosen] == [Sharding.ZERO2]
    totals = {choice.sharding: choice.memory.total for choice in plan.choices}
    assert totals[Sharding.ZERO2] < totals[Sharding.ZERO1]
    assert plan.num_parameters == 1000
    assert plan.epochs == 100 * 64 / 640
    assert plan.batch is not None
    assert plan.batch.passes_per_rank == 2


def test_buckets_are_those_that_deepspeed_is_given(
    settings: JobSettings, inspection: Inspection
) -> None:
    config = {"zero_optimization": {"reduce_bucket_size": 700}}
    small = make_plan(settings.model_copy(update={"deepspeed_config": config}), inspection)
    # Half of the share of four ranks, twice over, is less than a bucket.
    assert small.choices[2].memory.temporary == 4 * 700
    assert make_plan(settings, inspection).choices[2].memory.temporary == 4 * 1000


def test_activations_may_differ_between_shardings(
    settings: JobSettings, inspection: Inspection
) -> None:
    known = {Sharding.NONE: 300, Sharding.ZERO1: 200}
    plan = make_plan(settings, inspection.model_copy(update={"activation_bytes": known}))
    assert [choice.memory.activations for choice in plan.choices] == [300, 200, None, None, None]


def test_an_optimizer_that_needs_whole_parameters_keeps_zero_out(
    settings: JobSettings, inspection: Inspection
) -> None:
    muon = inspection.model_copy(update={"elementwise": False, "optimizer": "torch.optim.Muon"})
    plan = make_plan(settings, muon)
    assert plan.choices[0].obstacle is None
    assert all("Muon needs whole parameters" in (c.obstacle or "") for c in plan.choices[1:])


def test_says_how_ranks_come_back(settings: JobSettings, inspection: Inspection) -> None:
    assert "has loaded torch and small" in make_plan(settings, inspection).warm_start
    zero = settings.model_copy(update={"sharding": Sharding.ZERO1})
    assert "torch, DeepSpeed and small" in make_plan(zero, inspection).warm_start
    cold = inspection.model_copy(update={"warm_start_obstacle": "there are 3 threads"})
    assert make_plan(settings, cold).warm_start.endswith("there are 3 threads")


def test_a_command_is_planned_without_a_model(settings: JobSettings) -> None:
    command = settings.model_copy(update={"function": None, "command": ("x",), "batch": None})
    plan = make_plan(command, None)
    assert (plan.choices, plan.batch, plan.num_parameters) == ((), None, None)
    assert len(plan.seats) == 4


def test_copies_follow_the_settings(settings: JobSettings, inspection: Inspection) -> None:
    for copies in (0, 1, 2):
        recovery = settings.recovery.model_copy(update={"copies": copies})
        plan = make_plan(settings.model_copy(update={"recovery": recovery}), inspection)
        assert [choice.memory.copies > 0 for choice in plan.choices] == [False, *[copies > 0] * 4]
        assert plan.choices[1].redundancy.optimizer_copies == 1 + copies


def test_copies_that_cannot_follow_are_told(settings: JobSettings, inspection: Inspection) -> None:
    own = inspection.model_copy(update={"shadowable": False, "optimizer": "mine.Lion"})
    assert make_plan(settings, inspection).unfollowed is None
    assert make_plan(settings, own).unfollowed == "Lion"
    whole = own.model_copy(update={"elementwise": False})
    assert make_plan(settings, whole).unfollowed is None
    recovery = settings.recovery.model_copy(update={"copies": 0})
    assert make_plan(settings.model_copy(update={"recovery": recovery}), own).unfollowed is None


def test_the_parked_process_holds_the_model(settings: JobSettings, inspection: Inspection) -> None:
    assert make_plan(settings, inspection).parked_bytes == 1100 * 4 + 10 * 8
    command = settings.model_copy(update={"function": None, "command": ("x",), "batch": None})
    assert make_plan(command, None).parked_bytes is None


def test_a_plan_survives_json(settings: JobSettings, inspection: Inspection) -> None:
    plan = make_plan(settings, inspection)
    text = plan.model_dump_json()
    assert Plan.model_validate_json(text) == plan
    assert json.loads(text)["choices"][0]["memory"]["total"] == plan.choices[0].memory.total


def test_planning_does_not_import_torch() -> None:
    code = "import sys, reknit_operator.planning.plan; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def cut(inspection: Inspection) -> Inspection:
    """The largest parameter is divided."""
    first, *others = inspection.parameters
    divided = first.model_copy(update={"divided": True})
    return inspection.model_copy(update={"parameters": (divided, *others)})


@pytest.mark.parametrize(
    ("degrees", "copies", "kept", "source"),
    [
        (Degrees(tensor=2), 1, 0, "another rank with the same part of the model"),
        (Degrees(tensor=4), 0, 0, "the newest checkpoint"),
        (Degrees(tensor=4), 1, 1, "a copy that a rank in another pod keeps"),
    ],
)
def test_cut_layers_take_less_and_come_from_replicas_or_copies(
    settings: JobSettings,
    inspection: Inspection,
    degrees: Degrees,
    copies: int,
    kept: int,
    source: str,
) -> None:
    recovery = settings.recovery.model_copy(update={"copies": copies})
    changes = {"degrees": degrees, "recovery": recovery}
    plan = make_plan(settings.model_copy(update=changes), cut(inspection))
    [choice] = plan.choices
    own = 800 // degrees.tensor + 200
    assert choice.memory.parameters == 4 * (own + 100) + 80
    assert choice.memory.gradients == 4 * own
    assert choice.memory.copies == kept * 16 * own
    assert choice.redundancy.source.startswith(source)
    assert (plan.num_parameters, plan.num_divided) == (1000, 800)


def test_shard_groups_take_a_part_each_and_need_no_copies(
    settings: JobSettings, inspection: Inspection
) -> None:
    changes = {"degrees": Degrees(shard_group=2), "sharding": Sharding.FSDP}
    plan = make_plan(settings.model_copy(update=changes), inspection)
    hybrid = plan.choices[-1]
    assert hybrid.memory.optimizer == 4 * 2 * 500
    assert hybrid.memory.copies == 0
    assert hybrid.redundancy.source == "another rank with the same part of the model"
    assert hybrid.redundancy.optimizer_copies == 2
    # The other ways of sharding divide among all.
    assert plan.choices[3].memory.optimizer < hybrid.memory.optimizer


def test_an_optimizer_that_needs_whole_parameters_keeps_cutting_out(
    inspection: Inspection,
) -> None:
    muon = inspection.model_copy(update={"elementwise": False, "optimizer": "torch.optim.Muon"})
    assert cut_obstacle(Degrees(), muon) is None
    assert cut_obstacle(Degrees(tensor=2), inspection) is None
    assert cut_obstacle(Degrees(tensor=2), muon) == (
        "tensor",
        "Muon needs whole parameters, of which each rank has a part",
    )
    found = cut_obstacle(Degrees(pipeline=2), muon)
    assert found is not None and found[0] == "pipeline"
