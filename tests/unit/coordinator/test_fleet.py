"""Which server is to serve which range, decided from what is known of the servers."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from reknit.coordinator.fleet import (
    REPORT_WAIT,
    Fleet,
    found,
    is_protected,
    next_views,
    staleness,
)
from reknit.parameter_server.views import Member
from reknit.protocol.servers import RangeReport, Serving, Views

LEASE = 2.0
SILENT = 10.0


def speak(fleet: Fleet, name: str, **ranges: RangeReport) -> Fleet:
    """A server on an agent of its own says what it holds."""
    reports = {int(number.removeprefix("r")): report for number, report in ranges.items()}
    message = Serving(name=name, address=f"{name}:1", asked_at=0.0, ranges=reports)
    return fleet.heard(f"agent of {name}", 0, message)


def report(number: int, **more: object) -> RangeReport:
    return RangeReport(number=number, **{"complete": True, **more})


def pair() -> Fleet:
    """Two servers, each with both ranges complete."""
    fleet = Fleet()
    for name in "ab":
        fleet = speak(fleet, name)
    fleet = found(fleet, ["a", "b"], 2)
    for name in "ab":
        fleet = speak(fleet, name, r0=report(1, protected=True), r1=report(1, protected=True))
    return fleet.leased({0, 1}, 100.0 + LEASE)


def go_on(fleet: Fleet, now: float = 100.0, alive: str | None = None, ready: str | None = None):
    living = set(fleet.processes) if alive is None else set(alive)
    return next_views(
        fleet,
        living,
        sorted(living if ready is None else ready),
        2,
        silent_limit=SILENT,
        now=now,
    )


def servers(fleet: Fleet) -> list[tuple[str, str | None]]:
    return [(view.primary, view.backup) for view in fleet.views]


def test_every_server_begins_as_the_primary_of_one_range_and_the_backup_of_another():
    fleet = pair()
    assert servers(fleet) == [("a", "b"), ("b", "a")]
    assert all(view.founds and view.number == 1 for view in fleet.views)
    assert is_protected(fleet, 0)
    addresses = {"a": "a:1", "b": "b:1"}
    assert fleet.published(3) == Views.of(3, fleet.views, addresses)


def test_nothing_changes_while_all_live():
    fleet, changes = go_on(pair())
    assert changes == ()
    assert servers(fleet) == [("a", "b"), ("b", "a")]


def test_the_backup_follows_at_once_on_a_primary_that_has_ended():
    fleet, changes = go_on(pair().ended_at("agent of a", 0))
    assert servers(fleet) == [("b", None), ("b", None)]
    assert [change.sentence for change in changes] == [
        "b serves range 0 instead of a",
        "nobody is the backup of range 1 instead of a",
    ]
    assert [view.number for view in fleet.views] == [2, 2]
    assert not any(view.founds for view in fleet.views)


def test_a_primary_that_was_only_lost_sight_of_keeps_its_range_for_its_lease():
    lost = pair().without(["a"], certain=False)
    fleet, changes = go_on(lost, now=100.0 + LEASE - 0.1)
    assert fleet.views[0].primary == "a"
    assert [change.number for change in changes] == [1]
    fleet, _ = go_on(lost, now=100.0 + LEASE)
    assert fleet.views[0].primary == "b"


def test_a_new_server_becomes_the_backup_of_what_has_none():
    fleet, _ = go_on(pair().ended_at("agent of a", 0))
    fleet = speak(fleet, "b", r0=report(2), r1=report(2))
    fleet = speak(fleet, "c")
    fleet, _ = go_on(fleet)
    assert servers(fleet) == [("b", "c"), ("b", "c")]
    assert not is_protected(fleet, 0)


def test_a_server_that_leaves_gets_nothing_more_to_hold():
    fleet, _ = go_on(pair().ended_at("agent of a", 0))
    fleet = speak(fleet, "b", r0=report(2), r1=report(2))
    fleet, changes = go_on(speak(fleet, "c"), ready="b")
    assert changes == ()


def test_an_agent_has_one_server_at_a_time():
    fleet = pair()
    message = Serving(name="a2", address="a2:1", asked_at=0.0)
    fleet, _ = go_on(fleet.heard("agent of a", 1, message))
    assert "a" in fleet.ended
    assert servers(fleet) == [("b", "a2"), ("b", "a2")]


def test_a_backup_that_was_not_complete_may_say_so_late():
    fleet = speak(pair(), "b", r0=report(1, complete=False), r1=report(1))
    fleet, changes = go_on(fleet.ended_at("agent of a", 0))
    assert [change.number for change in changes] == [1]
    fleet = speak(fleet, "b", r0=report(1), r1=report(2))
    fleet, changes = go_on(fleet, now=100.0 + REPORT_WAIT / 2)
    assert [(c.number, c.view.primary, c.view.founds) for c in changes] == [(0, "b", False)]


def test_a_range_without_a_complete_copy_begins_anew():
    fleet = speak(pair(), "b", r0=report(1, complete=False), r1=report(1))
    fleet, _ = go_on(fleet.ended_at("agent of a", 0))
    fleet, changes = go_on(fleet, now=100.0 + REPORT_WAIT)
    [change] = changes
    assert change.view.founds
    assert change.sentence == "range 0 is lost with a, and begins anew"
    assert change.view.number == 2


def test_a_range_without_any_server_waits_for_one():
    fleet = pair().ended_at("agent of a", 0).ended_at("agent of b", 0)
    fleet, changes = go_on(fleet)
    assert changes == ()
    fleet, changes = go_on(speak(fleet, "c"))
    assert [(c.view.primary, c.view.backup, c.view.founds) for c in changes] == [
        ("c", None, True)
    ] * 2


def test_a_backup_that_owes_an_answer_for_too_long_is_replaced():
    slow = report(1, backup_silent_seconds=SILENT + 1)
    fleet = speak(pair(), "a", r0=slow, r1=report(1))
    fleet, _ = go_on(speak(fleet, "c"))
    assert servers(fleet) == [("a", "c"), ("b", "a")]


def test_other_workers_change_the_roster_of_every_range():
    fleet = pair().seated((Member(0, 7), Member(1, 7)), 7)
    assert {view.key for view in fleet.views} == {(1, 7)}
    assert fleet.roster == 7
    told = Views.model_validate_json(fleet.published(1).model_dump_json())
    assert told.ranges == fleet.views


def test_the_latest_views_that_agents_know_are_learned():
    old, new = pair(), go_on(pair().ended_at("agent of a", 0))[0]
    fleet = Fleet().learned(old.published(1), 50.0).learned(new.published(1), 60.0)
    assert fleet.learned(old.published(1), 70.0) == fleet
    assert fleet.views == new.views
    assert set(fleet.leases) == {60.0}


def test_the_slowest_worker_is_told_from_all_ranges():
    first = report(1, clocks_behind={0: 0, 1: 2})
    fleet = speak(pair(), "a", r0=first, r1=report(1))
    fleet = speak(fleet, "b", r0=report(1), r1=report(1, clocks_behind={0: 1, 1: 0}))
    assert staleness(fleet) == {0: 1, 1: 2}


OPERATIONS = st.one_of(
    st.tuples(st.just("start"), st.integers(0, 5)),
    st.tuples(st.just("end"), st.integers(0, 5)),
    st.tuples(st.just("vanish"), st.integers(0, 5)),
    st.tuples(st.just("speak"), st.integers(0, 5)),
    st.tuples(st.just("renew"), st.integers(0, 1)),
    st.tuples(st.just("wait"), st.integers(1, 30)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(OPERATIONS, max_size=60))
def test_whoever_serves_is_complete_and_alone(operations):
    fleet, now = pair(), 100.0
    truth = {("a", 0), ("b", 0), ("a", 1), ("b", 1)}
    """(server, range): copies that are complete in the present view."""
    serial = 0

    def speaks(fleet: Fleet, name: str) -> Fleet:
        held = {
            f"r{number}": report(view.number, complete=(name, number) in truth)
            for number, view in enumerate(fleet.views)
            if name in (view.primary, view.backup)
        }
        return speak(fleet, name, **held)

    for operation, target in operations:
        names = sorted(fleet.processes)
        name = names[target % len(names)] if names else None
        if operation == "start":
            serial += 1
            fleet = speak(fleet, f"s{serial}")
        elif operation == "wait":
            now += target / 10
        elif operation == "renew":
            if fleet.views[target].primary in fleet.processes:
                fleet = fleet.leased({target}, now + LEASE)
        elif name is not None and operation == "end":
            fleet = fleet.without([name])
        elif name is not None and operation == "vanish":
            fleet = fleet.without([name], certain=False)
        elif name is not None:
            number = target % 2
            view = fleet.views[number]
            if name == view.backup and view.primary in fleet.processes:
                # The primary, which lives, has fed it.
                truth.add((name, number))
            fleet = speaks(fleet, name)
        before = fleet
        fleet, changes = go_on(fleet, now=now)
        for change in changes:
            former, view = change.former, change.view
            assert view.number == former.number + 1
            assert {view.primary, view.backup} - {former.primary, former.backup, None} <= set(
                fleet.processes
            )
            if view.primary != former.primary:
                gone = former.primary in fleet.ended
                assert gone or now >= before.leases[change.number]
            kept = {s for s, n in truth if n == change.number}
            if view.founds:
                assert former.primary not in fleet.processes
                truth |= {(s, change.number) for s in (view.primary, view.backup) if s}
            else:
                assert view.primary in kept
                keeps = {view.primary} | ({former.backup} & {view.backup} & kept)
                truth -= {(s, change.number) for s in kept - keeps}
    serial += 1
    fleet = speak(speak(fleet, "y"), "z")
    for _ in range(4):
        now += LEASE
        for name in sorted(fleet.processes):
            fleet = speaks(fleet, name)
        fleet, changes = go_on(fleet, now=now)
        truth |= {(c.view.primary, c.number) for c in changes}
    for view in fleet.views:
        assert {view.primary, view.backup} <= set(fleet.processes)
        assert view.primary != view.backup


def test_leases_only_ever_grow():
    fleet = pair().leased({0}, 50.0)
    assert fleet.leases == (100.0 + LEASE, 100.0 + LEASE)
    assert replace(fleet, leases=(0.0, 0.0)).leased({0}, 50.0).leases == (50.0, 0.0)
