"""Every rule that spans fields, in the order of the fields."""

import re
from dataclasses import replace
from typing import Final

from reknit.layout import BatchPlan, PipelineSchedule, Precision, Sharding
from reknit.protocol.settings import Framework, OnLoss
from reknit_operator.api.communicationrules import COMMUNICATION_RULES
from reknit_operator.api.pods import (
    TRAINING_CONTAINER,
    ContainerTemplate,
    EnvironmentVariable,
    PodSpecTemplate,
    Volume,
)
from reknit_operator.api.recovery import DEFAULT_COPIES, WrongNumbers
from reknit_operator.api.recovery import Rule as FailureRule
from reknit_operator.api.reserved import NAMES, PREFIXES
from reknit_operator.api.rules import Rule
from reknit_operator.api.serverrules import SERVER_RULES
from reknit_operator.api.spec import Entrypoint, JobSpec, Parallelism, Pipeline
from reknit_operator.api.types import DistributedTrainingJob

MAX_NAME: Final = 40
"""Names of pods add a role, an index and a number of replacements to the job's, up to 63."""

NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"

_WORLD: Final = "self.workers.replicas * self.workers.processesPerReplica"
_OTHER_DEGREES: Final = "self.parallelism.pipeline.stages * self.parallelism.tensor"
_FUNCTION: Final = "has(self.entrypoint.__function__)"
_FEWEST: Final = (
    "(has(self.workers.minReplicas) ? self.workers.minReplicas : self.workers.replicas)"
)
_DATA: Final = (
    f"(self.parallelism.data == -1 ? ({_WORLD}) / ({_OTHER_DEGREES}) : self.parallelism.data)"
)
_FITS: Final = (
    f"(self.parallelism.data == -1 ? ({_WORLD}) % ({_OTHER_DEGREES}) == 0 : "
    f"self.parallelism.data * {_OTHER_DEGREES} == {_WORLD})"
)
_NOT_INTERLEAVED: Final = "self.parallelism.pipeline.schedule != 'Interleaved'"


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


def _has_valid_name(job: DistributedTrainingJob) -> bool:
    return re.fullmatch(NAME_PATTERN, job.metadata.name) is not None


def _has_one_program(entrypoint: Entrypoint) -> bool:
    return (entrypoint.function is None) != (entrypoint.command is None)


def _may_shrink(spec: JobSpec) -> bool:
    return spec.workers.fewest_replicas < spec.workers.replicas


def _is_function(spec: JobSpec) -> bool:
    return spec.entrypoint.function is not None


def _has_one_source(volume: Volume) -> bool:
    return len(volume.source()) == 1


def _matches_something(rule: FailureRule) -> bool:
    return bool(rule.on_exit_codes) or rule.on_reason is not None


def _has_free_name(variable: EnvironmentVariable) -> bool:
    name = variable.name
    return name not in NAMES and not name.startswith(PREFIXES)


def _leaves_training_alone(container: ContainerTemplate) -> bool:
    settings = (container.image, container.command, container.args, container.resources)
    return container.name != TRAINING_CONTAINER or all(value is None for value in settings)


def _has_unique_names(template: PodSpecTemplate) -> bool:
    return len({container.name for container in template.containers}) == len(template.containers)


JOB_RULES: Final = (
    Rule(
        scope="",
        field="metadata.name",
        sentence="the name {name} must be lower-case letters, digits and dashes, begin with a "
        "letter and not end with a dash",
        holds=_has_valid_name,
        cel=f"self.metadata.name.matches('{NAME_PATTERN}')",
        values={"name": (lambda job: job.metadata.name, "self.metadata.name")},
    ),
    Rule(
        scope="",
        field="metadata.name",
        sentence=f"the name has {{length}} characters, use at most {MAX_NAME}, because names of "
        "pods are made from it",
        holds=lambda job: len(job.metadata.name) <= MAX_NAME,
        cel=f"size(self.metadata.name) <= {MAX_NAME}",
        values={"length": (lambda job: len(job.metadata.name), "size(self.metadata.name)")},
    ),
)

ENTRYPOINT_RULES: Final = (
    Rule(
        scope="spec.entrypoint",
        field="",
        sentence="give exactly one of function and command",
        holds=_has_one_program,
        cel="has(self.__function__) != has(self.command)",
    ),
    Rule(
        scope="spec.entrypoint",
        field="config",
        sentence="a command gets no config, put the values into its arguments or environment",
        holds=lambda entrypoint: entrypoint.command is None or not entrypoint.config,
        cel="!has(self.command) || !has(self.config) || size(dyn(self.config)) == 0",
    ),
    Rule(
        scope="spec",
        field="framework",
        sentence="a function runs under PyTorch, remove framework or give a command",
        holds=lambda spec: not _is_function(spec) or spec.framework is Framework.PYTORCH,
        cel=f"!{_FUNCTION} || self.framework == 'PyTorch'",
    ),
    Rule(
        scope="spec",
        field="parallelism",
        sentence="a command divides the world by itself, remove parallelism or give a function",
        holds=lambda spec: _is_function(spec) or spec.parallelism == Parallelism(),
        cel=f"{_FUNCTION} || (self.parallelism.data == -1 && self.parallelism.sharding == 'None' "
        f"&& {_OTHER_DEGREES} == 1 && !has(self.parallelism.shardGroup))",
    ),
    Rule(
        scope="spec",
        field="batch",
        sentence="a command makes its own batches, remove batch or give a function",
        holds=lambda spec: _is_function(spec) or spec.batch is None,
        cel=f"{_FUNCTION} || !has(self.batch)",
    ),
    Rule(
        scope="spec",
        field="precision",
        sentence="a command chooses its own number format, remove precision or give a function",
        holds=lambda spec: _is_function(spec) or spec.precision is Precision.FP32,
        cel=f"{_FUNCTION} || self.precision == 'FP32'",
    ),
    Rule(
        scope="spec",
        field="recovery.copies",
        sentence="the state of a command is not known and cannot be copied, remove copies or give "
        "a function",
        holds=lambda spec: _is_function(spec) or spec.recovery.copies == DEFAULT_COPIES,
        cel=f"{_FUNCTION} || self.recovery.copies == {DEFAULT_COPIES}",
    ),
    Rule(
        scope="spec",
        field="recovery.wrongNumbers",
        sentence="nobody looks at the numbers of a command, remove wrongNumbers or give a function",
        holds=lambda spec: _is_function(spec) or spec.recovery.wrong_numbers == WrongNumbers(),
        cel=f"{_FUNCTION} || (!has(self.recovery.wrongNumbers.outlierFactor) "
        "&& self.recovery.wrongNumbers.onBadData == 'Halt')",
    ),
)

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
        holds=lambda spec: not _is_interleaved(spec) or not _may_shrink(spec),
        cel=f"{_NOT_INTERLEAVED} || {_FEWEST} >= self.workers.replicas",
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
        holds=lambda spec: spec.parallelism.data == -1 or not _may_shrink(spec),
        cel=f"self.parallelism.data == -1 || {_FEWEST} >= self.workers.replicas",
        values={"data": (lambda spec: spec.parallelism.data, "self.parallelism.data")},
    ),
    Rule(
        scope="spec",
        field="batch",
        sentence="a function needs batch sizes, add batch with global and micro",
        holds=lambda spec: not _is_function(spec) or spec.batch is not None,
        cel=f"!{_FUNCTION} || has(self.batch)",
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

POD_RULES: Final = (
    Rule(
        scope="spec.workers",
        field="minReplicas",
        sentence="minReplicas {fewest} is more than replicas {replicas}, lower minReplicas or "
        "raise replicas",
        holds=lambda workers: workers.fewest_replicas <= workers.replicas,
        cel="!has(self.minReplicas) || self.minReplicas <= self.replicas",
        values={
            "fewest": (lambda workers: workers.min_replicas, "self.minReplicas"),
            "replicas": (lambda workers: workers.replicas, "self.replicas"),
        },
    ),
    Rule(
        scope="spec",
        field="workers.minReplicas",
        sentence="fewer workers are only used to shrink, set recovery.onLoss to Shrink or remove "
        "minReplicas",
        holds=lambda spec: spec.recovery.on_loss is OnLoss.SHRINK or not _may_shrink(spec),
        cel=f"self.recovery.onLoss == 'Shrink' || {_FEWEST} >= self.workers.replicas",
    ),
    Rule(
        scope="spec",
        field="recovery.onLoss",
        sentence="to shrink, set workers.minReplicas to less than workers.replicas",
        holds=lambda spec: spec.recovery.on_loss is not OnLoss.SHRINK or _may_shrink(spec),
        cel=f"self.recovery.onLoss != 'Shrink' || {_FEWEST} < self.workers.replicas",
    ),
    Rule(
        scope="spec.workers.template.spec",
        field="containers",
        sentence="two containers have the same name, give each its own",
        holds=_has_unique_names,
        # The list type of the schema says the same.
        cel=None,
    ),
    Rule(
        scope="spec.workers.template.spec.containers[]",
        field="",
        sentence="the training container takes its image from spec.image, its program from "
        "spec.entrypoint and its resources from spec.workers.resources, set them there",
        holds=_leaves_training_alone,
        cel=f"self.name != '{TRAINING_CONTAINER}' || !(has(self.image) || has(self.command) || "
        "has(self.args) || has(self.resources))",
    ),
    Rule(
        scope="spec.workers.template.spec.containers[].env[]",
        field="name",
        sentence="Reknit sets the variable {name} itself, choose another name",
        holds=_has_free_name,
        cel="!("
        + " || ".join(f"self.name.startsWith('{prefix}')" for prefix in PREFIXES)
        + f") && !(self.name in {list(NAMES)})",
        values={"name": (lambda variable: variable.name, "self.name")},
    ),
)

FAULT_RULES: Final = (
    Rule(
        scope="spec.recovery.rules[]",
        field="",
        sentence="this rule would match nothing, give onExitCodes, onReason or both",
        holds=_matches_something,
        cel="size(self.onExitCodes) > 0 || has(self.onReason)",
    ),
    Rule(
        scope="spec.checkpoint.volume",
        field="",
        sentence="give exactly one of persistentVolumeClaim, nfs and hostPath",
        holds=_has_one_source,
        cel="[has(self.persistentVolumeClaim), has(self.nfs), has(self.hostPath)]"
        ".filter(given, given).size() == 1",
    ),
    Rule(
        scope="spec.source",
        field="",
        sentence="give exactly one of configMap, persistentVolumeClaim, nfs and hostPath",
        holds=_has_one_source,
        cel="[has(self.configMap), has(self.persistentVolumeClaim), has(self.nfs), "
        "has(self.hostPath)].filter(given, given).size() == 1",
    ),
    Rule(
        scope="spec.scheduling",
        field="gang",
        sentence="this version schedules each pod alone, remove gang",
        holds=lambda scheduling: scheduling.gang is None,
        cel="!has(self.gang)",
    ),
    Rule(
        scope="spec.scheduling",
        field="queueName",
        sentence="this version knows no queues, remove queueName",
        holds=lambda scheduling: scheduling.queue_name is None,
        cel="!has(self.queueName)",
    ),
)

RULES: Final = (
    JOB_RULES
    + ENTRYPOINT_RULES
    + TRAINING_RULES
    + COMMUNICATION_RULES
    + SERVER_RULES
    + POD_RULES
    + FAULT_RULES
)
