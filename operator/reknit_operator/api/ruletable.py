"""Every rule that spans fields, in the order of the fields."""

import re
from typing import Final

from reknit.layout import Precision
from reknit.protocol.settings import Framework, OnLoss
from reknit_operator.api.communicationrules import COMMUNICATION_RULES
from reknit_operator.api.pods import (
    TRAINING_CONTAINER,
    ContainerTemplate,
    EnvironmentVariable,
    PodSpecTemplate,
    Volume,
)
from reknit_operator.api.recovery import DEFAULT_COPIES, DEFAULT_KEEP, Checkpoint, WrongNumbers
from reknit_operator.api.recovery import Rule as FailureRule
from reknit_operator.api.reserved import NAMES, PREFIXES
from reknit_operator.api.rules import Rule
from reknit_operator.api.serverrules import SERVER_RULES
from reknit_operator.api.spec import Entrypoint, JobSpec, Parallelism
from reknit_operator.api.trainingrules import (
    FEWEST,
    FUNCTION,
    OTHER_DEGREES,
    TRAINING_RULES,
    is_function,
    may_shrink,
)
from reknit_operator.api.types import DistributedTrainingJob

MAX_NAME: Final = 40
"""Names of pods add a role, an index and a number of replacements to the job's, up to 63."""

NAME_PATTERN: Final = "^[a-z]([-a-z0-9]*[a-z0-9])?$"


def _has_valid_name(job: DistributedTrainingJob) -> bool:
    return re.fullmatch(NAME_PATTERN, job.metadata.name) is not None


def _has_one_program(entrypoint: Entrypoint) -> bool:
    return (entrypoint.function is None) != (entrypoint.command is None)


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


def _leaves_checkpoints_alone(spec: JobSpec) -> bool:
    unset = Checkpoint(volume=spec.checkpoint.volume)
    return is_function(spec) or spec.checkpoint == unset


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
        holds=lambda spec: not is_function(spec) or spec.framework is Framework.PYTORCH,
        cel=f"!{FUNCTION} || self.framework == 'PyTorch'",
    ),
    Rule(
        scope="spec",
        field="parallelism",
        sentence="a command divides the world by itself, remove parallelism or give a function",
        holds=lambda spec: is_function(spec) or spec.parallelism == Parallelism(),
        cel=f"{FUNCTION} || (self.parallelism.data == -1 && self.parallelism.sharding == 'None' "
        f"&& {OTHER_DEGREES} == 1 && !has(self.parallelism.shardGroup))",
    ),
    Rule(
        scope="spec",
        field="batch",
        sentence="a command makes its own batches, remove batch or give a function",
        holds=lambda spec: is_function(spec) or spec.batch is None,
        cel=f"{FUNCTION} || !has(self.batch)",
    ),
    Rule(
        scope="spec",
        field="precision",
        sentence="a command chooses its own number format, remove precision or give a function",
        holds=lambda spec: is_function(spec) or spec.precision is Precision.FP32,
        cel=f"{FUNCTION} || self.precision == 'FP32'",
    ),
    Rule(
        scope="spec",
        field="seed",
        sentence="a command seeds itself, remove seed or give a function",
        holds=lambda spec: is_function(spec) or spec.seed == 0,
        cel=f"{FUNCTION} || self.seed == 0",
    ),
    Rule(
        scope="spec",
        field="checkpoint",
        sentence="a command writes its checkpoints itself, remove every, everySteps and keep or "
        "give a function",
        holds=_leaves_checkpoints_alone,
        # Ten minutes in seconds are what a person may have written for the default.
        cel=f"{FUNCTION} || (!has(self.checkpoint.everySteps) && "
        f"self.checkpoint.keep == {DEFAULT_KEEP} && "
        "(!has(self.checkpoint.every) || self.checkpoint.every in ['10m', '600s']))",
    ),
    Rule(
        scope="spec",
        field="recovery.copies",
        sentence="the state of a command is not known and cannot be copied, remove copies or give "
        "a function",
        holds=lambda spec: is_function(spec) or spec.recovery.copies == DEFAULT_COPIES,
        cel=f"{FUNCTION} || self.recovery.copies == {DEFAULT_COPIES}",
    ),
    Rule(
        scope="spec",
        field="recovery.wrongNumbers",
        sentence="nobody looks at the numbers of a command, remove wrongNumbers or give a function",
        holds=lambda spec: is_function(spec) or spec.recovery.wrong_numbers == WrongNumbers(),
        cel=f"{FUNCTION} || (!has(self.recovery.wrongNumbers.outlierFactor) "
        "&& self.recovery.wrongNumbers.onBadData == 'Halt')",
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
        holds=lambda spec: spec.recovery.on_loss is OnLoss.SHRINK or not may_shrink(spec),
        cel=f"self.recovery.onLoss == 'Shrink' || {FEWEST} >= self.workers.replicas",
    ),
    Rule(
        scope="spec",
        field="recovery.onLoss",
        sentence="to shrink, set workers.minReplicas to less than workers.replicas",
        holds=lambda spec: spec.recovery.on_loss is not OnLoss.SHRINK or may_shrink(spec),
        cel=f"self.recovery.onLoss != 'Shrink' || {FEWEST} < self.workers.replicas",
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
