"""Parameter servers in the membership: who is told what, and what ranks wait for."""

import re
from typing import Any

import pytest

from reknit.coordinator import events
from reknit.coordinator.metrics import Metrics
from reknit.coordinator.view import status_of
from reknit.parameter_server.views import Member
from reknit.protocol.agents import Begin, End, Heartbeat, Leaving, Refuse, Register
from reknit.protocol.servers import FromServer, Leases, RangeReport, ServerEnded, Serving, Views

SERVER = 40
"""The connection of the first one."""


class Servers:
    """Two workers, and servers that say what is true."""

    def __init__(self, drive: Any, **rules: Any) -> None:
        self.job = drive(num_servers=2, **rules)
        self.complete: set[tuple[str, int]] = set()

    def join(self, index: int, name: str = "", **more: Any) -> None:
        known = {"connection": SERVER + index, "role": "server", "num_slots": 1}
        self.job.register(index, **{**known, "name": name or f"p{index}", **more})

    def speak(self, index: int, name: str = "", launch: int = 0) -> list[Any]:
        name = name or f"p{index}.{launch}"
        views = self.job.state.fleet.views
        ranges = {
            number: RangeReport(number=view.number, complete=True, protected=True, version=5)
            for number, view in enumerate(views)
            if name in (view.primary, view.backup)
        }
        message = Serving(name=name, address=f"{name}:1", asked_at=3.5, ranges=ranges)
        return self.job.hear(SERVER + index, FromServer(launch=launch, message=message))

    def begin(self) -> Begin:
        for index in range(2):
            self.join(index)
            self.speak(index)
        return self.job.begin()

    def end(self, index: int, launch: int = 0) -> list[Any]:
        return self.job.hear(SERVER + index, ServerEnded(launch=launch))

    def views(self, connection: int) -> list[Views]:
        return [m for c, m in self.job.sent if c == connection and isinstance(m, Views)]

    def pass_time(self, seconds: float, *servers: int) -> None:
        for _ in range(round(seconds / 0.1)):
            self.job.now += 0.1
            for worker in range(2):
                self.job.beat(worker)
            for index in servers:
                beat = Heartbeat(slots=(), store=self.job.endpoint())
                self.job.hear(SERVER + index, beat)
            self.job.feed(events.Tick())


@pytest.fixture
def servers(drive) -> Servers:
    return Servers(drive)


def test_ranks_wait_for_the_servers(servers):
    for replica in range(2):
        servers.job.register(replica)
    assert servers.job.state.current is None
    servers.join(0)
    servers.join(1)
    servers.speak(0)
    assert servers.job.state.current is None
    servers.speak(1)
    assert servers.job.state.current is not None
    assert servers.job.reasons()[-2:] == ["ServersReady", "GenerationBegun"]


def test_all_agents_hear_of_the_same_views_with_the_ranks_as_workers(servers):
    begin = servers.begin()
    order = begin.generation.order
    told = [servers.views(connection)[-1] for connection in (1, 2, SERVER, SERVER + 1)]
    assert all(views == told[0] for views in told)
    assert told[0].ranges[0].members == (Member(0, order), Member(1, order))
    assert [(v.primary, v.backup) for v in told[0].ranges] == [
        ("p0.0", "p1.0"),
        ("p1.0", "p0.0"),
    ]
    assert told[0].addresses == {"p0.0": "p0.0:1", "p1.0": "p1.0:1"}


def test_views_are_told_once_and_again_to_a_new_connection(servers):
    servers.begin()
    number = len(servers.views(1))
    servers.job.feed_tick()
    assert len(servers.views(1)) == number
    servers.join(0, connection=70)
    assert servers.views(70) == [servers.views(SERVER)[-1]]


def test_a_server_gets_leases_for_what_it_serves(servers):
    servers.begin()
    told = [m for m in servers.speak(0) if isinstance(m, Leases)]
    assert told == [Leases(name="p0.0", asked_at=3.5, seconds=2.0, ranges={0: 1})]
    assert servers.job.state.fleet.leases[0] == servers.job.now + 2.0


def test_ranks_go_on_when_a_server_ends(servers):
    servers.begin()
    servers.speak(0)
    servers.speak(1)
    servers.end(0)
    assert [v.primary for v in servers.views(1)[-1].ranges] == ["p1.0", "p1.0"]
    servers.speak(0, launch=1)
    assert [v.backup for v in servers.views(2)[-1].ranges] == ["p0.1", "p0.1"]
    assert servers.job.state.current is not None
    assert servers.job.reasons().count("GenerationBegun") == 1


def test_a_server_that_falls_silent_is_replaced_when_its_lease_is_over(servers):
    servers.begin()
    servers.speak(1)
    servers.pass_time(1.9, 1)
    assert servers.views(1)[-1].ranges[0].primary == "p0.0"
    servers.pass_time(0.5, 1)
    assert servers.views(1)[-1].ranges[0].primary == "p1.0"
    assert "p0" not in servers.job.state.agents


def test_a_lost_range_ends_the_generation_and_the_next_one_waits_for_it(servers):
    servers.begin()
    servers.end(0)
    servers.end(1)
    servers.job.feed_tick()
    assert servers.job.state.current is not None
    servers.speak(0, launch=1)
    assert servers.job.reasons()[-2:] == ["RangeLost", "RangeLost"]
    assert servers.job.state.current is None
    servers.job.stop()
    assert servers.job.state.current is not None
    assert all(view.founds and view.number > 1 for view in servers.views(1)[-1].ranges)


def test_a_server_whose_pod_must_go_is_let_go_once_others_hold_everything(servers):
    servers.begin()
    servers.speak(0)
    told = servers.job.hear(SERVER, Leaving(grace_seconds=30.0))
    assert not [m for m in told if isinstance(m, End)]
    told = servers.speak(1)
    assert [m for m in told if isinstance(m, End)]


def test_servers_that_all_must_go_stay_until_the_ranks_have_left(servers):
    servers.begin()
    for index in range(2):
        servers.job.hear(SERVER + index, Leaving(grace_seconds=30.0))
    for index in range(2):
        servers.speak(index)
    assert not [m for c, m in servers.job.sent if c >= SERVER and isinstance(m, End)]
    for rank in range(2):
        servers.job.finish(rank, left=True)
    servers.job.stop()
    servers.job.feed_tick()
    assert {c for c, m in servers.job.sent if isinstance(m, End)} >= {SERVER, SERVER + 1}


def test_a_new_coordinator_goes_on_with_the_views_of_the_old_one(drive, servers):
    servers.begin()
    servers.speak(0)
    views = servers.views(1)[-1]
    later = Servers(drive, incarnation=2)
    for replica in range(2):
        later.job.register(replica, views=views)
    later.join(0, views=views)
    later.speak(0)
    assert later.job.state.fleet.views == views.ranges
    later.join(1, views=views)
    later.speak(1)
    later.pass_time(6, 0, 1)
    for _ in range(2):
        later.speak(0)
        later.speak(1)
    assert [v.primary for v in later.job.state.fleet.views] == ["p0.0", "p1.0"]
    assert not any(reason == "RangeLost" for reason in later.job.reasons())


def test_servers_fill_no_place_of_a_worker(servers):
    servers.begin()
    assert servers.job.state.spares == ()
    assert len(servers.job.state.workers) == 2
    status = status_of(servers.job.state)
    assert status.num_agents == 2
    assert status.servers == ("p0", "p1")
    assert [(r.primary, r.backup) for r in status.ranges] == [("p0.0", "p1.0"), ("p1.0", "p0.0")]


def test_a_server_too_many_is_refused(servers):
    servers.join(2)
    [(_, refused)] = [(c, m) for c, m in servers.job.sent if isinstance(m, Refuse)]
    assert refused.reason == "the job has no server 2, only 2 of them"


def test_a_job_without_servers_takes_none(drive):
    job = drive()
    message = Register(
        agent="p0",
        role="server",
        replica=0,
        node="n",
        host="h",
        num_slots=1,
        promised=0,
        store=job.endpoint(),
        slots=(),
    )
    assert isinstance(job.hear(SERVER, message)[0], Refuse)


def test_metrics_tell_of_servers_and_of_ranges_that_are_protected(servers):
    servers.begin()
    servers.speak(0)
    metrics = Metrics("gpt", "team", lambda: (servers.job.state, servers.job.now))
    text = metrics.text().decode()
    assert re.search(r"^reknit_servers({.*})? 2.0$", text, re.MULTILINE)
    states = dict(re.findall(r'^reknit_ranges{.*state="(\w+)".*} (\S+)$', text, re.M))
    assert states == {"protected": "1.0", "unprotected": "1.0"}
