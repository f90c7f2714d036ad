"""A user's DeepSpeed configuration beside the manifest: what contradicts it, and the two merged.

Imports no torch, so that a manifest can be refused before anything is started.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from reknit.layout import Precision, Sharding
from reknit.protocol.base import Json
from reknit.protocol.settings import BatchSettings

PATH: Final = "spec.deepspeed.config"

_AUTO: Final = "auto"
"""What other tools write for "follows from elsewhere"."""

_ELSEWHERE: Final = {
    "gradient_accumulation_steps": "follows from spec.batch and the number of ranks",
    "gradient_clipping": "is the argument clip_grad_norm of job.engine",
    "optimizer": "is the argument optimizer of job.engine",
    "scheduler": "is the argument schedule of job.engine",
    "data_types": "is fixed: gradients are accumulated and the optimizer works in FP32",
    "communication_data_type": "is fixed: gradients are reduced in FP32",
    "steps_per_print": "has no effect, as Reknit shows the progress",
    "checkpoint": "has no effect, as Reknit writes the checkpoints",
    "zero_force_ds_cpu_optimizer": "has no effect, as the optimizer is that of job.engine",
    "zero_allow_untested_optimizer": "has no effect, as the optimizer is checked by Reknit",
}

_ZERO_SETTINGS: Final = frozenset(
    {
        "allgather_bucket_size",
        "allgather_partitions",
        "contiguous_gradients",
        "ignore_unused_parameters",
        "leaf_module",
        "max_live_parameters",
        "max_reuse_distance",
        "model_persistence_threshold",
        "module_granularity_threshold",
        "overlap_comm",
        "param_persistence_threshold",
        "prefetch_bucket_size",
        "reduce_bucket_size",
        "reduce_scatter",
        "round_robin_gradients",
        "sub_group_size",
        "use_all_reduce_for_fetch_params",
        "use_multi_rank_bucket_allreduce",
    }
)
"""Passed on to DeepSpeed; those of stage 3 also with the prefix."""

_STAGE_3: Final = "stage3_"

_ONLY_STAGE_3: Final = frozenset(
    {
        "leaf_module",
        "max_live_parameters",
        "max_reuse_distance",
        "model_persistence_threshold",
        "module_granularity_threshold",
        "param_persistence_threshold",
        "prefetch_bucket_size",
        "sub_group_size",
        "use_all_reduce_for_fetch_params",
    }
)
"""Of these, what stages 1 and 2 do not look at, also without the prefix."""

_SCALE_SETTINGS: Final = frozenset(
    {"hysteresis", "initial_scale_power", "loss_scale", "loss_scale_window", "min_loss_scale"}
)
"""Of `fp16`, used by Reknit's own loss scale."""


def contradictions(
    config: Mapping[str, Json],
    *,
    sharding: Sharding,
    precision: Precision,
    batch: BatchSettings | None,
) -> list[str]:
    """One sentence, with the field's path, for everything that contradicts the rest of the spec.

    What only repeats the spec, or says "auto", is no contradiction.
    """
    if not config:
        return []
    if not sharding.zero_stage:
        return [f"{PATH}: needs spec.parallelism.sharding to be ZeRO1, ZeRO2 or ZeRO3"]
    return list(_contradictions(config, sharding, precision, batch))


def _contradictions(
    config: Mapping[str, Json],
    sharding: Sharding,
    precision: Precision,
    batch: BatchSettings | None,
) -> Iterator[str]:
    sizes = {
        "train_batch_size": ("spec.batch.global", batch.global_batch if batch else None),
        "train_micro_batch_size_per_gpu": ("spec.batch.micro", batch.micro if batch else None),
    }
    for key, value in config.items():
        if value == _AUTO and (key in sizes or key in _ELSEWHERE):
            continue
        if key in sizes:
            path, expected = sizes[key]
            if expected is None:
                yield f"{PATH}.{key}: set {path} instead"
            elif value != expected:
                yield f"{PATH}.{key}: is {value!r}, but {path} is {expected}; remove it"
        elif key in _ELSEWHERE:
            yield f"{PATH}.{key}: {_ELSEWHERE[key]}; remove it"
        elif key in {"zero_optimization", "fp16", "bf16"}:
            if not isinstance(value, dict):
                yield f"{PATH}.{key}: must be an object, not {value!r}"
            elif key == "zero_optimization":
                yield from _zero(value, sharding)
            else:
                yield from _half(key, value, precision)
        elif key == "wall_clock_breakdown" and value is False:
            continue
        else:
            yield f"{PATH}.{key}: is not supported; remove it"


def _zero(settings: Mapping[str, Json], sharding: Sharding) -> Iterator[str]:
    path = f"{PATH}.zero_optimization"
    for key, value in settings.items():
        if key == "stage":
            if value != sharding.zero_stage:
                yield (
                    f"{path}.stage: is {value!r}, but spec.parallelism.sharding is {sharding}; "
                    "remove it"
                )
        elif key.removeprefix(_STAGE_3) not in _ZERO_SETTINGS:
            yield f"{path}.{key}: is not supported; remove it"
        elif sharding is not Sharding.ZERO3 and _belongs_to_stage_3(key):
            yield (
                f"{path}.{key}: has no effect, as spec.parallelism.sharding is {sharding} and not "
                "ZeRO3; remove it"
            )


def _belongs_to_stage_3(key: str) -> bool:
    return key.startswith(_STAGE_3) or key in _ONLY_STAGE_3


def _half(key: str, settings: Mapping[str, Json], precision: Precision) -> Iterator[str]:
    wanted = precision is (Precision.FP16 if key == "fp16" else Precision.BF16)
    for name, value in settings.items():
        path = f"{PATH}.{key}.{name}"
        if name == "enabled":
            if value not in (wanted, _AUTO):
                yield f"{path}: is {value!r}, but spec.precision is {precision}; remove it"
        elif key == "bf16" or name not in _SCALE_SETTINGS:
            yield f"{path}: is not supported; remove it"
        elif value == _AUTO:
            continue
        elif not wanted:
            yield f"{path}: has no effect, as spec.precision is {precision}, not FP16; remove it"
        elif not _is_number(value):
            yield f"{path}: must be a number that is not negative, not {value!r}"


def _is_number(value: Json) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def build_config(
    config: Mapping[str, Json],
    *,
    sharding: Sharding,
    precision: Precision,
    micro: int,
    num_steps: int,
) -> dict[str, Json]:
    """What DeepSpeed is given: the user's configuration with what the spec says put into it.

    Clipping, the norm, the loss scale and the schedule are Reknit's own, as they belong to the
    gate that all strategies share; DeepSpeed's are switched off.

    Args:
        config: the user's configuration, free of contradictions.
        sharding: which stage of ZeRO.
        precision: the number format of parameters, forward and backward.
        micro: samples per forward pass.
        num_steps: forward and backward passes per update.
    """
    zero: dict[str, Json] = {
        # Buckets are allocated whole, and DeepSpeed's default is 500 million elements.
        "reduce_bucket_size": 50_000_000,
        "allgather_bucket_size": 50_000_000,
        # On a CPU there is no second stream that could overlap anything.
        "overlap_comm": False,
        **_object(config, "zero_optimization"),
        "stage": sharding.zero_stage,
    }
    result: dict[str, Json] = {
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": num_steps,
        "gradient_clipping": 0.0,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
        "zero_optimization": zero,
    }
    if sharding is not Sharding.ZERO3:
        zero["compute_grad_norm"] = False
        result["gradient_allreduce_op"] = "sum"
    if precision is not Precision.FP32:
        result["communication_data_type"] = "fp32"
        result["data_types"] = {"grad_accum_dtype": "fp32"}
    if precision is Precision.FP16:
        result["fp16"] = {"enabled": True, "loss_scale": 1.0}
    if precision is Precision.BF16:
        result["bf16"] = {"enabled": True, "check_grad_overflow": False}
    return result


def scale_settings(config: Mapping[str, Json]) -> dict[str, float]:
    """The settings of the loss scale that the user's configuration contains, by their names."""
    return {
        name: float(value)
        for name, value in _object(config, "fp16").items()
        if name in _SCALE_SETTINGS and isinstance(value, int | float)
    }


def _object(config: Mapping[str, Json], key: str) -> dict[str, Json]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}
