"""Watches that fall silent, and lists that are made anew."""

import pytest

from reknit_operator.constants import Kind
from reknit_operator.kube.freshness import STALE_AFTER, WATCH_PERIOD, Freshness
from reknit_operator.kube.watching import watch_paths, watch_settings

A, B = "/api/v1/namespaces/a/pods", "/api/v1/namespaces/b/pods"
JOBS = "/apis/reknit.dev/v1alpha1/namespaces/a/distributedtrainingjobs"
WATCH = {"watch": "true"}


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def listed():
    return []


@pytest.fixture
def freshness(listed, clock):
    paths = {A: Kind.POD, B: Kind.POD, JOBS: Kind.JOB}
    return Freshness(paths, listed.append, clock=lambda: clock[0])


def test_nothing_is_expected_before_the_start(freshness, listed):
    assert listed == []


def test_a_watch_that_is_not_opened_again_is_dead(freshness, clock):
    assert freshness.stale() == []
    freshness.start()
    clock[0] = STALE_AFTER.total_seconds()
    freshness.answered(A, WATCH)
    freshness.answered(JOBS, WATCH)
    assert freshness.stale() == []
    clock[0] += 1
    assert freshness.stale() == [B]
    freshness.answered(B, WATCH)
    assert freshness.stale() == []


def test_a_kind_is_listed_when_each_of_its_watches_has(freshness, listed):
    freshness.answered(A, {})
    assert listed == []
    freshness.answered(B, {"continue": "x"})
    assert listed == []
    freshness.answered(B, {})
    freshness.answered(JOBS, {"limit": "500"})
    assert listed == [Kind.POD, Kind.JOB]
    assert freshness.num_relists == 0


def test_every_further_list_is_told(freshness, listed):
    for path in (A, B, A, B, JOBS):
        freshness.answered(path, {})
    assert listed == [Kind.POD, Kind.POD, Kind.POD, Kind.JOB]
    assert freshness.num_relists == 2


def test_other_requests_do_not_matter(freshness, listed):
    freshness.answered("/api/v1/namespaces", {})
    freshness.answered("/apis", WATCH)
    assert listed == []


def test_paths():
    cluster = watch_paths(None)
    assert cluster["/api/v1/pods"] is Kind.POD
    assert set(cluster.values()) == set(Kind)
    several = watch_paths(("a", "b"))
    assert len(several) == 2 * len(Kind)
    assert several[A] is Kind.POD


def test_kopf_asks_for_our_objects_only_and_for_periods_that_a_server_understands():
    settings = watch_settings()
    assert settings.watching.server_timeout == WATCH_PERIOD.total_seconds()
    assert isinstance(settings.watching.server_timeout, int)
    assert set(settings.watching.label_selectors.values()) == {
        "app.kubernetes.io/managed-by=reknit"
    }
    assert len(settings.watching.label_selectors) == len(Kind) - 1
    assert (settings.posting.enabled, settings.peering.standalone) == (False, True)
