"""Which version is gone on from: a table of cases, and every history that a fault can leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reknit.state.agreement import Agreement, Report, agree


def report(rank: int, version: int | None, *, prepared: bool = False, gate: int | None = None):
    return Report(rank, version, prepared, gate)


def agreement(target, *, behind=(), supplier=None, excluded=()):
    return Agreement(target, frozenset(behind), supplier, frozenset(excluded))


CASES = {
    "nobody is there": ([], agreement(None)),
    "newcomers only": ([report(0, None), report(1, None)], agreement(None)),
    "all at the start": ([report(0, 0), report(1, 0), report(2, None)], agreement(0)),
    "between two steps": (
        [report(0, 7, gate=7), report(1, 7, gate=7), report(2, None)],
        agreement(7, supplier=0),
    ),
    "some have prepared": (
        [report(0, 7, gate=7, prepared=True), report(1, 7, gate=7)],
        agreement(7, supplier=0),
    ),
    "all have prepared, and nobody knows the gate": (
        [report(0, 7, gate=7, prepared=True), report(1, 7, gate=7, prepared=True)],
        agreement(7, supplier=0),
    ),
    "one knows the gate and has not applied": (
        [report(0, 7, gate=7, prepared=True), report(1, 7, gate=8, prepared=True)],
        agreement(8, behind=[0, 1], supplier=1),
    ),
    "one has applied": (
        [report(0, 7, gate=7, prepared=True), report(2, 8, gate=8), report(1, None)],
        agreement(8, behind=[0], supplier=2),
    ),
    "one has applied and one knows": (
        [
            report(0, 7, gate=7, prepared=True),
            report(1, 7, gate=8, prepared=True),
            report(2, 8, gate=8),
        ],
        agreement(8, behind=[0, 1], supplier=1),
    ),
    "one has applied and prepared what follows": (
        [report(0, 7, gate=7, prepared=True), report(1, 8, gate=8, prepared=True)],
        agreement(8, behind=[0], supplier=1),
    ),
    "the first step": (
        [report(0, 0, prepared=True), report(1, 0, prepared=True, gate=1)],
        agreement(1, behind=[0, 1], supplier=1),
    ),
    "one is two versions behind": (
        [report(0, 6, gate=6, prepared=True), report(1, 8, gate=8)],
        agreement(8, supplier=1, excluded=[0]),
    ),
    "one is far behind, the others have prepared": (
        [report(0, 2, gate=2), report(1, 8, gate=9, prepared=True), report(2, 8, prepared=True)],
        agreement(9, behind=[1, 2], supplier=1, excluded=[0]),
    ),
    "one has not prepared what another has applied": (
        [report(0, 7, gate=7), report(1, 8, gate=8)],
        agreement(8, supplier=1, excluded=[0]),
    ),
    "one has not prepared a step whose gate another knows": (
        [report(0, 7, gate=7), report(1, 7, gate=8, prepared=True)],
        agreement(7, supplier=0),
    ),
    "nobody can tell those behind how the gate came out": (
        [report(0, 7, gate=7, prepared=True), report(1, 8)],
        agreement(8, excluded=[0]),
    ),
    "an old report knows an old gate": (
        [report(0, 3, gate=8), report(1, 7, prepared=True), report(2, 8)],
        agreement(8, excluded=[0, 1]),
    ),
}


@pytest.mark.parametrize(("reports", "expected"), CASES.values(), ids=CASES)
def test_table(reports, expected):
    assert agree(reports) == expected
    assert agree(reversed(reports)) == expected


MOMENTS = ("computing", "prepared", "knows the gate", "applied")


def reached(rank: int, version: int, moment: str) -> Report:
    """What a rank reports that was stopped at `moment` of the step after `version`."""
    match moment:
        case "computing":
            return report(rank, version, gate=version or None)
        case "prepared":
            return report(rank, version, gate=version or None, prepared=True)
        case "knows the gate":
            return report(rank, version, gate=version + 1, prepared=True)
        case _:
            return report(rank, version + 1, gate=version + 1)


@given(
    st.integers(0, 5),
    st.lists(st.sampled_from(MOMENTS), min_size=1, max_size=6),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
def test_no_committed_version_is_lost_and_none_is_made_up(version, moments, num_newcomers, random):
    passed = any(moment in MOMENTS[2:] for moment in moments)
    if passed:
        # The gate is passed when all have prepared.
        moments = ["prepared" if moment == "computing" else moment for moment in moments]
    reports = [reached(rank, version, moment) for rank, moment in enumerate(moments)]
    reports += [report(len(moments) + index, None) for index in range(num_newcomers)]
    random.shuffle(reports)

    found = agree(reports)

    assert found.target == version + passed
    assert found.excluded == frozenset()
    late = {rank for rank, moment in enumerate(moments) if passed and moment != "applied"}
    assert found.behind == late
    if passed:
        assert moments[found.supplier] in MOMENTS[2:]


@given(
    st.lists(
        st.builds(
            Report,
            rank=st.integers(0, 9),
            version=st.none() | st.integers(0, 4),
            prepared=st.booleans(),
            gate=st.none() | st.integers(0, 5),
        ),
        unique_by=lambda r: r.rank,
        max_size=8,
    ),
    st.randoms(use_true_random=False),
)
def test_any_reports_give_one_answer_that_holds_together(reports, random):
    found = agree(reports)
    random.shuffle(reports)
    assert agree(reports) == found
    if found.target is None:
        assert all(r.version is None for r in reports)
        return
    versions = {r.rank: r.version for r in reports if r.version is not None}
    assert not found.behind & found.excluded
    assert max(versions.values()) in (found.target, found.target - 1)
    # Who has gone further never goes back, and who cannot follow does not count.
    for rank, version in versions.items():
        counts = rank not in found.excluded
        assert counts is (version == found.target or rank in found.behind)
    assert versions.keys() - found.excluded
    if found.behind:
        assert found.supplier is not None
    if found.supplier is not None:
        assert found.supplier in versions.keys() - found.excluded
