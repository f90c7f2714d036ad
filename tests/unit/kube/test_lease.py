"""Who may hold the Lease, and that two never act at once."""

import asyncio
from datetime import UTC, datetime

import pytest

from reknit_operator.kube import lease as leases
from reknit_operator.kube.client import KubeClient
from reknit_operator.kube.lease import (
    DURATION,
    RENEW_WITHIN,
    Election,
    Sight,
    claim,
    look,
    may_take,
)

WALL = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)


def held(by, *, renewed="t1", transitions=1):
    spec = {"holderIdentity": by, "renewTime": renewed, "leaseTransitions": transitions}
    return {"metadata": {"name": "l", "resourceVersion": "5"}, "spec": spec}


@pytest.mark.parametrize(
    ("lease", "taken"), [(None, True), (held(""), True), (held("me"), True), (held("you"), False)]
)
def test_a_free_lease_is_taken(lease, taken):
    assert may_take(look(None, lease, 0.0), "me", 0.0) is taken


def test_an_abandoned_lease_is_taken_by_our_own_clock_alone():
    sight = look(None, held("you", renewed="1970-01-01T00:00:00Z"), 100.0)
    end = 100.0 + DURATION.total_seconds()
    assert not may_take(look(sight, held("you", renewed="1970-01-01T00:00:00Z"), end), "me", end)
    assert may_take(sight, "me", end + 0.1)


def test_a_renewed_lease_is_left_alone():
    sight = look(None, held("you"), 0.0)
    sight = look(sight, held("you", renewed="t2"), 14.0)
    assert sight == Sight(("you", "t2", 1), 14.0)
    assert not may_take(sight, "me", 20.0)


def test_a_holder_steps_down_before_others_may_follow():
    assert RENEW_WITHIN < DURATION


def test_a_claim_keeps_what_it_renews():
    first = claim(None, "l", "ns", "me", WALL)
    assert first["metadata"] == {"name": "l", "namespace": "ns"}
    assert first["spec"]["renewTime"] == "2026-01-01T12:00:00.123456Z"
    assert first["spec"]["leaseTransitions"] == 1
    again = claim(first, "l", "ns", "me", WALL.replace(minute=1))
    assert again["spec"]["acquireTime"] == first["spec"]["acquireTime"]
    assert again["spec"]["leaseTransitions"] == 1
    other = claim(again, "l", "ns", "you", WALL.replace(minute=2))
    assert other["spec"]["leaseTransitions"] == 2
    assert other["spec"]["acquireTime"] == other["spec"]["renewTime"]


def test_a_lease_that_is_given_back_is_free():
    given = claim(held("me"), "l", "ns", "", WALL)
    assert may_take(look(None, given, 0.0), "you", 0.0)


@pytest.fixture
async def election(access, monkeypatch):
    monkeypatch.setattr(leases, "PERIOD", leases.timedelta(milliseconds=1))
    async with KubeClient(access, None) as client:
        yield Election(client, "ns", "l", "me", wall=lambda: WALL)


async def test_the_first_candidate_creates_the_lease_and_gives_it_back(scripted, election):
    scripted.will(404).will(201).will(200, held("me")).will(200)
    await election.acquire()
    assert election.leads
    method, path, body, _ = scripted.requests[1]
    assert (method, path) == ("POST", "/apis/coordination.k8s.io/v1/namespaces/ns/leases")
    assert body["spec"]["holderIdentity"] == "me"
    await election.release()
    assert scripted.requests[-1][0] == "PUT"
    assert scripted.requests[-1][2]["spec"]["holderIdentity"] == ""
    assert not election.leads


async def test_a_candidate_waits_and_the_version_decides_between_two(scripted, election):
    scripted.will(200, held("you")).will(200, held("")).will(409, {"reason": "Conflict"})
    scripted.will(200, held("")).will(200)
    await election.acquire()
    methods = [method for method, *_ in scripted.requests]
    assert methods == ["GET", "GET", "PUT", "GET", "PUT"]
    assert scripted.requests[2][2]["metadata"]["resourceVersion"] == "5"


async def test_a_holder_that_finds_another_one_ends(scripted, election):
    scripted.will(404).will(201).will(200, held("you"))
    await election.acquire()
    await asyncio.wait_for(election.keep(), 10)
    assert not election.leads
    await election.release()
    assert all(method != "PUT" for method, *_ in scripted.requests)


async def test_a_holder_that_cannot_renew_ends(scripted, election, monkeypatch):
    monkeypatch.setattr(leases, "RENEW_WITHIN", leases.timedelta(milliseconds=50))
    scripted.will(404).will(201).will(403, {"message": "forbidden"})
    await election.acquire()
    await asyncio.wait_for(election.keep(), 10)
    assert not election.leads


async def test_a_holder_that_waits_does_not_act_for_longer_than_it_may(
    scripted, election, monkeypatch
):
    scripted.will(404).will(201)
    await election.acquire()
    monkeypatch.setattr(leases, "RENEW_WITHIN", leases.timedelta(milliseconds=50))
    monkeypatch.setattr(leases, "PERIOD", leases.timedelta(hours=1))
    await asyncio.wait_for(election.keep(), 10)
    assert not election.leads
