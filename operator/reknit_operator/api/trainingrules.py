"""How a batch and a model may be divided among ranks."""

from dataclasses import replace
from typing import Final

from reknit.layout import BatchPlan, PipelineSchedule, Sharding
from reknit_operator.api.rules import Rule
from reknit_operator.api.spec import JobSpec, Pipeline

FUNCTION: Final = "has(self.entrypoint.__function__)"
FEWEST: Final = "(has(self.workers.minReplicas) ? self.workers.minReplicas : self.workers.replicas)"
_WORLD: Final = "self.workers.replicas * self.workers.processesPerReplica"
OTHER_DEGREES: Final = "self.parallelism.pipeline.stages * self.parallelism.tensor"
_DATA: Final = (
    f"(self.parallelism.data == -1 ? ({_WORLD}) / ({OTHER_DEGREES}) : self.parallelism.data)"
)
_FITS: Final = (
    f"(self.parallelism.data == -1 ? ({_WORLD}) % ({OTHER_DEGREES}) == 0 : "
    f"self.parallelism.data * {OTHER_DEGREES} == {_WORLD})"
)
_NOT_INTERLEAVED: Final = "self.parallelism.pipeline.schedule != 'Interleaved'"


def may_shrink(spec: JobSpec) -> bool:
    """Whether the job may go on with fewer workers."""
    return spec.workers.fewest_replicas < spec.workers.replicas


def is_function(spec: JobSpec) -> bool:
    """Whether the job trains a function, and is no command."""
    return spec.entrypoint.function is not None


def _stages(pipeline: Pipeline) -> int:
    return pipeline.stages * pipeline.stages_per_rank


def _is_interleaved(spec: JobSpec) -> bool:
    return spec.parallelism.pipeline.schedule is PipelineSchedule.INTERLEAVED


def _has_whole_rounds(spec: JobSpec) -> bool:
    batch, num_data = spec.batch, _num_data(spec)
    if batch is None or batch.global_batch % batch.micro or num_data is None:
        # Another rule says so.
        return True
    plan = BatchPlan(batch.global_batch, batch.micro, num_data)
    return plan.num_steps % spec.parallelism.pipeline.stages == 0


def _multiplies_to_world(spec: JobSpec) -> bool:
    return _num_data(spec) is not None


def _num_data(spec: JobSpec) -> int | None:
    """The data-parallel degree; None if the degrees do not multiply to the world."""
    degrees = replace(spec.parallelism.degrees, shard_group=None)
    try:
        return degrees.resolve(spec.workers.world_size).data
    except ValueError:
        return None


def _makes_whole_groups(spec: JobSpec) -> bool:
    group, num_data = spec.parallelism.shard_group, _num_data(spec)
    return group is None or num_data is None or num_data % group == 0


TRAINING_RULES: Final = (
    Rule(
        scope="spec.parallelism.pipeline",
        field="",
        sentence="schedule, stagesPerRank and cut have no effect on one stage, raise stages or "
        "remove them",
        holds=lambda pipeline: pipeline.stages > 1 or pipeline == Pipeline(),
        cel="self.stages > 1 || (self.schedule == 'OneForwardOneBackward' "
        "&& self.stagesPerRank == 1 && (!has(self.cut) || size(self.cut) == 0))",
    ),
    Rule(
        scope="spec.parallelism.pipeline",
        field="stagesPerRank",
        sentence="the schedule {schedule} has one stage on each rank, set schedule to "
        "Interleaved or remove stagesPerRank",
        holds=lambda pipeline: (
            pipeline.schedule is PipelineSchedule.INTERLEAVED or pipeline.stages_per_rank == 1
        ),
        cel="self.schedule == 'Interleaved' || self.stagesPerRank == 1",
        values={"schedule": (lambda pipeline: pipeline.schedule, "self.schedule")},
    ),
    Rule(
        scope="spec.parallelism.pipeline",
        field="cut",
        sentence="{names} layers are named for {stages} stages, name where each one but the first "
        "begins",
        holds=lambda pipeline: not pipeline.cut or len(pipeline.cut) + 1 == _stages(pipeline),
        cel="!has(self.cut) || size(self.cut) == 0 || size(self.cut) + 1 == "
        "self.stages * self.stagesPerRank",
        values={
            "names": (lambda pipeline: len(pipeline.cut), "size(self.cut)"),
            "stages": (lambda pipeline: _stages(pipeline), "self.stages * self.stagesPerRank"),
        },
    ),
    Rule(
        scope="spec.parallelism",
        field="sharding",
        sentence="this version cannot shard the stages of a pipeline, remove sharding or set "
        "pipeline.stages to 1",
        holds=lambda parallelism: (
            parallelism.pipeline.stages == 1 or not parallelism.sharding.is_sharded
        ),
        cel="self.pipeline.stages == 1 || self.sharding == 'None'",
    ),
    Rule(
        scope="spec",
        field="parallelism.pipeline.schedule",
        sentence="Interleaved needs as many micro-batches for each pipeline as it has stages, "
        "or a multiple, change batch or take OneForwardOneBackward",
        holds=lambda spec: not _is_interleaved(spec) or _has_whole_rounds(spec),
        cel=f"{_NOT_INTERLEAVED} || !has(self.batch) || !{_FITS} || "
        "self.batch.global % self.batch.micro != 0 || "
        f"((self.batch.global / self.batch.micro + {_DATA} - 1) / {_DATA}) "
        "% self.parallelism.pipeline.stages == 0",
    ),
    Rule(
        scope="spec",
        field="parallelism.pipeline.schedule",
        sentence="Interleaved needs the same number of micro-batches in every world, take "
        "OneForwardOneBackward or remove workers.minReplicas",
        holds=lambda spec: not _is_interleaved(spec) or not may_shrink(spec),
        cel=f"{_NOT_INTERLEAVED} || {FEWEST} >= self.workers.replicas",
    ),
    Rule(
        scope="spec.parallelism",
        field="tensor",
        sentence="layers are cut without sharding in this version, set sharding to None or tensor "
        "to 1",
        holds=lambda parallelism: parallelism.tensor == 1 or not parallelism.sharding.is_sharded,
        cel="self.tensor == 1 || self.sharding == 'None'",
    ),
    Rule(
        scope="spec.parallelism",
        field="tensor",
        sentence="either layers or the model are cut in this version, set tensor or "
        "pipeline.stages to 1",
        holds=lambda parallelism: 1 in (parallelism.tensor, parallelism.pipeline.stages),
        cel="self.tensor == 1 || self.pipeline.stages == 1",
    ),
    Rule(
        scope="spec.parallelism",
        field="shardGroup",
        sentence="only FSDP divides the state within groups, set sharding to FSDP or remove "
        "shardGroup",
        holds=lambda parallelism: (
            parallelism.shard_group is None or parallelism.sharding is Sharding.FSDP
        ),
        cel="!has(self.shardGroup) || self.sharding == 'FSDP'",
    ),
    Rule(
        scope="spec",
        field="parallelism",
        sentence="data {data} x pipeline {pipeline} x tensor {tensor} does not multiply to the "
        "world of {world} ranks, set data to -1 or change workers",
        holds=_multiplies_to_world,
        cel=_FITS,
        values={
            "data": (lambda spec: spec.parallelism.data, "self.parallelism.data"),
            "pipeline": (
                lambda spec: spec.parallelism.pipeline.stages,
                "self.parallelism.pipeline.stages",
            ),
            "tensor": (lambda spec: spec.parallelism.tensor, "self.parallelism.tensor"),
            "world": (lambda spec: spec.workers.world_size, _WORLD),
        },
    ),
    Rule(
        scope="spec",
        field="parallelism.shardGroup",
        sentence="the data-parallel ranks do not make whole groups of {group}, choose a shardGroup "
        "that divides their number",
        holds=_makes_whole_groups,
        cel=f"!has(self.parallelism.shardGroup) || !{_FITS} || "
        f"{_DATA} % self.parallelism.shardGroup == 0",
        values={
            "group": (lambda spec: spec.parallelism.shard_group, "self.parallelism.shardGroup")
        },
    ),
    Rule(
        scope="spec",
        field="parallelism.data",
        sentence="data {data} leaves no room for the world to shrink, set data to -1 or remove "
        "workers.minReplicas",
        holds=lambda spec: spec.parallelism.data == -1 or not may_shrink(spec),
        cel=f"self.parallelism.data == -1 || {FEWEST} >= self.workers.replicas",
        values={"data": (lambda spec: spec.parallelism.data, "self.parallelism.data")},
    ),
    Rule(
        scope="spec",
        field="batch",
        sentence="a function needs batch sizes, add batch with global and micro",
        holds=lambda spec: not is_function(spec) or spec.batch is not None,
        cel=f"!{FUNCTION} || has(self.batch)",
    ),
    Rule(
        scope="spec.batch",
        field="micro",
        sentence="the global batch of {global} samples is no multiple of the micro-batch of "
        "{micro}, change one of them",
        holds=lambda batch: batch.global_batch % batch.micro == 0,
        cel="self.global % self.micro == 0",
        values={
            "global": (lambda batch: batch.global_batch, "self.global"),
            "micro": (lambda batch: batch.micro, "self.micro"),
        },
    ),
    Rule(
        scope="spec",
        field="deepspeed.config",
        sentence="this configuration has no effect without DeepSpeed, set parallelism.sharding to "
        "ZeRO1, ZeRO2 or ZeRO3, or remove it",
        holds=lambda spec: not spec.deepspeed.config or spec.parallelism.sharding.zero_stage > 0,
        cel="!has(self.deepspeed.config) || size(dyn(self.deepspeed.config)) == 0 "
        "|| self.parallelism.sharding.startsWith('ZeRO')",
    ),
)
