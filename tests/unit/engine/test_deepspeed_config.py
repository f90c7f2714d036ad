import subprocess
import sys

import pytest

from reknit.layout import Precision, Sharding
from reknit.protocol.settings import BatchSettings
from reknit.strategies.deepspeed_config import build_config, contradictions, scale_settings

BATCH = BatchSettings(global_batch=32, micro=4)


def problems(config, sharding=Sharding.ZERO2, precision=Precision.FP32, batch=BATCH):
    return contradictions(config, sharding=sharding, precision=precision, batch=batch)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"train_batch_size": 32, "train_micro_batch_size_per_gpu": 4},
        {"train_batch_size": "auto", "gradient_accumulation_steps": "auto"},
        {"optimizer": "auto", "gradient_clipping": "auto"},
        {"zero_optimization": {"stage": 2, "reduce_bucket_size": 1000, "overlap_comm": True}},
        {"fp16": {"enabled": False, "loss_scale": "auto"}, "bf16": {"enabled": "auto"}},
        {"wall_clock_breakdown": False},
    ],
)
def test_what_repeats_or_leaves_open_the_spec_is_accepted(config):
    assert problems(config) == []


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"train_batch_size": 64}, "train_batch_size: is 64, but spec.batch.global is 32"),
        (
            {"train_micro_batch_size_per_gpu": 8},
            "train_micro_batch_size_per_gpu: is 8, but spec.batch.micro is 4",
        ),
        ({"gradient_accumulation_steps": 4}, "gradient_accumulation_steps: follows from"),
        ({"gradient_clipping": 1.0}, "gradient_clipping: is the argument clip_grad_norm"),
        ({"optimizer": {"type": "Adam"}}, "optimizer: is the argument optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler: is the argument schedule"),
        ({"data_types": {}}, "data_types: is fixed"),
        ({"zero_optimization": {"stage": 3}}, "zero_optimization.stage: is 3, but"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "zero_optimization.offload_optimizer: is not supported",
        ),
        ({"zero_optimization": 2}, "zero_optimization: must be an object"),
        ({"fp16": {"enabled": True}}, "fp16.enabled: is True, but spec.precision is FP32"),
        ({"bf16": {"check_grad_overflow": True}}, "bf16.check_grad_overflow: is not supported"),
        ({"fp16": {"loss_scale": 0}}, "fp16.loss_scale: has no effect, as spec.precision is FP32"),
        (
            {"fp16": {"enabled": False, "hysteresis": 2}},
            "fp16.hysteresis: has no effect, as spec.precision is FP32",
        ),
        ({"wall_clock_breakdown": True}, "wall_clock_breakdown: is not supported"),
        ({"tensorboard": {"enabled": True}}, "tensorboard: is not supported"),
    ],
)
def test_a_contradiction_is_one_sentence_with_its_path(config, expected):
    (sentence,) = problems(config)
    assert sentence.startswith(f"spec.deepspeed.config.{expected}")


@pytest.mark.parametrize("value", [-1, True, "much"])
def test_settings_of_the_loss_scale_are_numbers(value):
    config = {"fp16": {"loss_scale": value, "hysteresis": 2}}
    (sentence,) = problems(config, precision=Precision.FP16)
    assert sentence.startswith("spec.deepspeed.config.fp16.loss_scale: must be a number")


@pytest.mark.parametrize(
    "key", ["stage3_max_live_parameters", "max_live_parameters", "stage3_reduce_bucket_size"]
)
def test_settings_of_stage_3_belong_to_it(key):
    config = {"zero_optimization": {key: 5}}
    assert problems(config, Sharding.ZERO3) == []
    for sharding in (Sharding.ZERO1, Sharding.ZERO2):
        (sentence,) = problems(config, sharding)
        assert sentence.startswith(f"spec.deepspeed.config.zero_optimization.{key}: has no effect")
        assert f"is {sharding} and not ZeRO3" in sentence


def test_precision_must_agree():
    assert problems({"bf16": {"enabled": True}}, precision=Precision.BF16) == []
    (sentence,) = problems({"bf16": {"enabled": False}}, precision=Precision.BF16)
    assert "spec.precision is BF16" in sentence


def test_a_configuration_without_zero_has_no_use():
    (sentence,) = problems({"zero_optimization": {}}, sharding=Sharding.NONE)
    assert "needs spec.parallelism.sharding" in sentence
    assert problems({}, sharding=Sharding.NONE) == []


def test_batch_sizes_need_the_spec_s():
    (sentence,) = problems({"train_batch_size": 32}, batch=None)
    assert sentence.endswith("set spec.batch.global instead")


def test_every_contradiction_is_named():
    found = problems({"optimizer": {}, "zero_optimization": {"stage": 1, "zenflow": {}}})
    assert len(found) == 3


@pytest.mark.parametrize("precision", Precision)
@pytest.mark.parametrize("sharding", [Sharding.ZERO1, Sharding.ZERO2, Sharding.ZERO3])
def test_the_merged_configuration(sharding, precision):
    user = {"zero_optimization": {"reduce_bucket_size": 7, "stage": sharding.zero_stage}}
    config = build_config(user, sharding=sharding, precision=precision, micro=4, num_steps=2)
    assert config["zero_optimization"]["reduce_bucket_size"] == 7
    assert config["zero_optimization"]["stage"] == sharding.zero_stage
    assert config["train_micro_batch_size_per_gpu"] == 4
    assert config["gradient_accumulation_steps"] == 2
    assert config["gradient_clipping"] == 0.0
    assert ("fp16" in config) == (precision is Precision.FP16)
    assert ("bf16" in config) == (precision is Precision.BF16)
    if precision is not Precision.FP32:
        assert config["communication_data_type"] == "fp32"
    assert (config.get("gradient_allreduce_op") == "sum") == (sharding is not Sharding.ZERO3)
    assert user == {"zero_optimization": {"reduce_bucket_size": 7, "stage": sharding.zero_stage}}


def test_settings_of_the_loss_scale():
    config = {"fp16": {"enabled": True, "hysteresis": 2, "loss_scale": "auto"}}
    assert scale_settings(config) == {"hysteresis": 2.0}
    assert scale_settings({}) == {}


def test_the_module_imports_no_torch():
    code = "import sys, reknit.strategies.deepspeed_config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
