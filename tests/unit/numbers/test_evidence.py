"""Readings of ranks that compute on the same micro-batches, as one."""

import math

from reknit.numbers.evidence import joined
from reknit.numbers.verdict import Reading, conspicuous


def test_parts_of_a_model_are_read_as_one() -> None:
    # Two pipelines: the last stage has the loss, each stage a part of the gradient.
    readings = [
        Reading(rank=0, micro_batch=0, loss=0.0, norm=3.0, samples=(7,)),
        Reading(rank=1, micro_batch=1, loss=0.0, norm=1.0, samples=(8,)),
        Reading(rank=0, micro_batch=0, loss=2.5, norm=4.0, samples=(7,)),
        Reading(rank=1, micro_batch=1, loss=1.5, norm=0.0, samples=(8,)),
    ]
    assert joined(readings) == (
        Reading(rank=0, micro_batch=0, loss=2.5, norm=5.0, samples=(7,)),
        Reading(rank=1, micro_batch=1, loss=1.5, norm=1.0, samples=(8,)),
    )


def test_one_wrong_part_makes_the_whole_conspicuous() -> None:
    readings = [Reading(rank, rank, 1.0, 1.0) for rank in range(3)]
    found = conspicuous(joined([*readings, Reading(2, 2, 0.0, math.nan)]))
    assert [reading.rank for reading in found] == [2]


def test_readings_of_whole_models_stay_as_they_are() -> None:
    readings = tuple(Reading(rank, rank, 1.0, 0.1) for rank in range(3))
    assert joined(readings) == readings
