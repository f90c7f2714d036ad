"""Memory per rank: the published formulas as oracles, and what DeepSpeed adds to them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.layout import Precision, Sharding
from reknit.protocol.inspection import Inspection, ParameterInfo
from reknit_operator.planning.memory import Memory, ModelSize, ZeroLimits, memory_per_rank

MILLION = 1_000_000
SMALL = ZeroLimits(bucket=0, gathered=0)


def plan(
    sharding: Sharding,
    precision: Precision = Precision.BF16,
    *,
    num_ranks: int = 4,
    elements: int = MILLION,
    tensors: int = 2,
    limits: ZeroLimits = SMALL,
    checkpoints: bool = False,
    copies: int = 0,
    frozen: int = 0,
) -> Memory:
    size = ModelSize(trainable=elements, frozen=frozen, largest=0, buffer_bytes=0)
    return memory_per_rank(
        size,
        sharding,
        precision,
        num_ranks=num_ranks,
        optimizer_tensors=tensors,
        limits=limits,
        checkpoints=checkpoints,
        copies=copies,
    )


@pytest.mark.parametrize("precision", Precision)
def test_without_sharding_adam_takes_sixteen_bytes_per_parameter(precision: Precision) -> None:
    memory = plan(Sharding.NONE, precision)
    assert (memory.parameters, memory.gradients, memory.optimizer) == (
        4 * MILLION,
        4 * MILLION,
        8 * MILLION,
    )
    assert memory.total == 16 * MILLION


@pytest.mark.parametrize(
    ("sharding", "precision", "parameters", "gradients", "optimizer"),
    [
        # In units of the number of parameters, on four ranks.
        (Sharding.ZERO1, Precision.BF16, 2, 4 + 4 / 4, 12 / 4),
        (Sharding.ZERO1, Precision.FP32, 4, 4 + 4 / 4, 12 / 4),
        (Sharding.ZERO2, Precision.FP16, 2, 4 / 4, 12 / 4),
        (Sharding.ZERO2, Precision.FP32, 4, 4 / 4, 12 / 4),
        (Sharding.ZERO3, Precision.BF16, 2 / 4, 8 / 4, 12 / 4),
        (Sharding.ZERO3, Precision.FP32, 4 / 4, 8 / 4, 8 / 4),
    ],
)
def test_bytes_per_parameter_under_zero(
    sharding: Sharding, precision: Precision, parameters: float, gradients: float, optimizer: float
) -> None:
    memory = plan(sharding, precision)
    assert memory.parameters == parameters * MILLION
    assert memory.gradients == gradients * MILLION
    assert memory.optimizer == optimizer * MILLION
    assert memory.temporary == 8 * MILLION / 4


@pytest.mark.parametrize(
    ("sharding", "precision", "measured"),
    [
        (Sharding.ZERO2, Precision.FP32, 16.03),
        (Sharding.ZERO2, Precision.BF16, 14.24),
        (Sharding.ZERO3, Precision.FP32, 18.20),
        (Sharding.ZERO3, Precision.BF16, 15.33),
    ],
)
def test_agrees_with_what_was_measured(
    sharding: Sharding, precision: Precision, measured: float
) -> None:
    # Resident bytes per parameter of DeepSpeed 0.19.8 with Adam on two CPU ranks, 25 million
    # parameters in 24 layers, buckets of two million.
    elements = 24 * 1024 * 1024
    limits = ZeroLimits(bucket=2_000_000, gathered=1_000_000_000)
    computed = plan(sharding, precision, num_ranks=2, elements=elements, limits=limits).total
    assert computed / elements == pytest.approx(measured, rel=0.12)
    assert computed / elements > measured * 0.98


def test_zero3_holds_gathered_parameters_up_to_its_limit() -> None:
    limits = ZeroLimits(bucket=0, gathered=300_000)
    assert plan(Sharding.ZERO3, limits=limits).parameters == 2 * (250_000 + 300_000)
    everything = ZeroLimits(bucket=0, gathered=10 * MILLION)
    assert plan(Sharding.ZERO3, limits=everything).parameters == 2 * (250_000 + MILLION)


def test_one_rank_gathers_nothing() -> None:
    limits = ZeroLimits(bucket=0, gathered=MILLION)
    assert plan(Sharding.ZERO3, num_ranks=1, limits=limits).parameters == 2 * MILLION


def test_a_bucket_is_no_larger_than_the_gradient() -> None:
    limits = ZeroLimits(bucket=600_000, gathered=0)
    assert plan(Sharding.ZERO2, limits=limits).temporary == 4 * 600_000
    limits = ZeroLimits(bucket=500_000_000, gathered=0)
    assert plan(Sharding.ZERO2, limits=limits).temporary == 4 * MILLION


def test_each_rank_copies_its_share_for_a_checkpoint() -> None:
    for sharding in Sharding:
        assert plan(sharding, checkpoints=True).checkpoint == 12 * MILLION / 4
        assert plan(sharding).checkpoint == 0


@pytest.mark.parametrize("sharding", [Sharding.ZERO1, Sharding.ZERO2, Sharding.ZERO3])
@pytest.mark.parametrize("precision", Precision)
def test_a_copy_takes_sixteen_bytes_per_parameter_of_the_share_with_adam(
    sharding: Sharding, precision: Precision
) -> None:
    for copies in (1, 2):
        with_copies = plan(sharding, precision, copies=copies)
        assert with_copies.copies == copies * 16 * MILLION / 4
        assert with_copies.total == plan(sharding, precision).total + with_copies.copies
    assert plan(sharding, precision, copies=1, tensors=0).copies == 8 * MILLION / 4


def test_there_are_no_copies_where_nobody_can_keep_them_or_everybody_holds_all() -> None:
    assert plan(Sharding.ZERO1, num_ranks=1, copies=2).copies == 0
    assert plan(Sharding.ZERO1, num_ranks=2, copies=2).copies == 16 * MILLION / 2
    assert plan(Sharding.NONE, copies=2).copies == 0


def test_frozen_weights_are_copied_where_they_are_divided() -> None:
    frozen = 4000
    for sharding, copied in ((Sharding.ZERO2, 0), (Sharding.ZERO3, 2 * frozen / 4)):
        found = plan(sharding, Precision.BF16, copies=1, frozen=frozen)
        assert found.copies - plan(sharding, copies=1).copies == copied


def test_plain_sgd_keeps_nothing_but_master_weights() -> None:
    assert plan(Sharding.NONE, tensors=0).optimizer == 0
    assert plan(Sharding.ZERO2, tensors=0).optimizer == MILLION
    assert plan(Sharding.ZERO3, Precision.FP32, tensors=0).optimizer == 0


@given(
    elements=st.integers(1, 10**12),
    num_ranks=st.integers(1, 4096),
    tensors=st.integers(0, 4),
    precision=st.sampled_from(Precision),
)
def test_more_ranks_never_take_more_and_deeper_sharding_keeps_less(
    elements: int, num_ranks: int, tensors: int, precision: Precision
) -> None:
    def state(sharding: Sharding, ranks: int) -> int:
        memory = plan(sharding, precision, num_ranks=ranks, elements=elements, tensors=tensors)
        return memory.parameters + memory.gradients + memory.optimizer

    for sharding in Sharding:
        assert state(sharding, num_ranks + 1) <= state(sharding, num_ranks)
    assert state(Sharding.ZERO2, num_ranks) <= state(Sharding.ZERO1, num_ranks)


def test_sizes_come_from_the_inspection(inspection: Inspection) -> None:
    assert ModelSize.of(inspection) == ModelSize(
        trainable=1000, frozen=100, largest=800, buffer_bytes=80, gathered=1000
    )


@pytest.mark.parametrize(
    ("dtype", "item"),
    [("float32", 4), ("bfloat16", 2), ("float8_e4m3fn", 1), ("bool", 1), ("complex64", 8)],
)
def test_buffers_count_with_their_own_type(dtype: str, item: int) -> None:
    inspection = Inspection(
        parameters=(),
        buffers=(ParameterInfo(name="b", shape=(3, 5), dtype=dtype),),
        optimizer="",
    )
    assert ModelSize.of(inspection).buffer_bytes == 15 * item


def test_frozen_parameters_have_no_gradient() -> None:
    size = ModelSize(trainable=100, frozen=900, largest=100, buffer_bytes=8)
    memory = memory_per_rank(
        size, Sharding.NONE, Precision.FP32, num_ranks=1, optimizer_tensors=2, limits=SMALL
    )
    assert memory.parameters == 4 * 1000 + 8
    assert memory.gradients == 4 * 100
    assert memory.temporary == 8 * 100


def test_activations_count_when_they_are_known() -> None:
    size = ModelSize(trainable=100, frozen=0, largest=0, buffer_bytes=0)
    known, unknown = (
        memory_per_rank(
            size,
            Sharding.NONE,
            Precision.FP32,
            num_ranks=1,
            optimizer_tensors=2,
            limits=SMALL,
            activations=activations,
        )
        for activations in (5000, None)
    )
    assert known.total - unknown.total == 5000
    assert unknown.activations is None


def test_limits_come_from_the_deepspeed_configuration() -> None:
    assert ZeroLimits.of({}) == ZeroLimits(bucket=500_000_000, gathered=1_000_000_000)
    given = {"reduce_bucket_size": 2e6, "stage3_max_live_parameters": 3}
    assert ZeroLimits.of(given) == ZeroLimits(bucket=2_000_000, gathered=3)
    assert ZeroLimits.of({"max_live_parameters": 7}).gathered == 7
    assert ZeroLimits.of({"reduce_bucket_size": "auto"}).bucket == 500_000_000
