"""The operator's metrics for Prometheus; what is true now is read at every scrape."""

import asyncio
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from reknit_operator.api.types import ConditionType
from reknit_operator.kube.freshness import Freshness
from reknit_operator.reconcile.cache import Cache, JobKey
from reknit_operator.reconcile.client import Object
from reknit_operator.reconcile.queue import KeyedQueue

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
START_SECONDS: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
PENDING: Final = "Pending"
"""State of a job of which nothing is true yet."""


class OperatorMetrics:
    """One operator's registry.

    Args:
        cache: the jobs.
        queue: the keys that wait.
        freshness: the watches.
        leads: whether this operator acts.
    """

    def __init__(
        self,
        cache: Cache,
        queue: KeyedQueue[JobKey],
        freshness: Freshness,
        leads: Callable[[], bool],
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(cache, queue, freshness, leads))
        self._passes = Counter(
            "reknit_operator_reconciles",
            "Passes over jobs, by result: success, conflict or error.",
            ["result"],
            registry=self._registry,
        )
        self._pass_seconds = Histogram(
            "reknit_operator_reconcile_seconds",
            "Duration of a pass.",
            buckets=SECONDS,
            registry=self._registry,
        )
        self._requests = Counter(
            "reknit_operator_api_requests",
            "Requests to the API server, by verb, kind and status; 0 stands for no answer.",
            ["verb", "kind", "code"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "reknit_operator_api_request_seconds",
            "Duration of a request to the API server.",
            ["verb"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._start_seconds = Histogram(
            "reknit_operator_start_seconds",
            "From the creation of a job until it trains.",
            buckets=START_SECONDS,
            registry=self._registry,
        )
        self._not_started: set[str] = set()
        for result in ("success", "conflict", "error"):
            self._passes.labels(result)

    def passed(self, result: str, seconds: float) -> None:
        """Takes note of a pass over a job."""
        self._passes.labels(result).inc()
        self._pass_seconds.observe(seconds)

    def requested(self, verb: str, kind: str, status: int, seconds: float) -> None:
        """Takes note of a request to the API server."""
        self._requests.labels(verb, kind, str(status)).inc()
        self._request_seconds.labels(verb).observe(seconds)

    def saw(self, job: Object) -> None:
        """Takes note of a job's state, to know how long it takes until it trains.

        A job that was already training when this operator began is not counted.
        """
        uid, status = job["metadata"]["uid"], job.get("status", {})
        begun = [
            found["lastTransitionTime"]
            for found in status.get("conditions", ())
            if (found["type"], found["status"]) == (ConditionType.RUNNING, "True")
        ]
        if not begun and status.get("attempts", 0) <= 1 and "completionTime" not in status:
            self._not_started.add(uid)
        elif uid in self._not_started:
            self._not_started.discard(uid)
            if begun:
                created = datetime.fromisoformat(job["metadata"]["creationTimestamp"])
                waited = datetime.fromisoformat(begun[0]) - created
                self._start_seconds.observe(waited.total_seconds())

    def forgot(self, uid: str) -> None:
        """Takes note of a job's end."""
        self._not_started.discard(uid)

    def text(self) -> bytes:
        """What a scrape answers."""
        return generate_latest(self._registry)


def state_of(job: Object) -> str:
    """The state that `kubectl get` shows for a job."""
    conditions = job.get("status", {}).get("conditions", ())
    return next((found["type"] for found in conditions if found["status"] == "True"), PENDING)


class _Now(Collector):
    """What is true at the moment of the scrape."""

    def __init__(
        self,
        cache: Cache,
        queue: KeyedQueue[JobKey],
        freshness: Freshness,
        leads: Callable[[], bool],
    ) -> None:
        self._cache = cache
        self._queue = queue
        self._freshness = freshness
        self._leads = leads

    def describe(self) -> Iterator[Metric]:
        """Nothing: names are registered without asking for values."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All figures of the moment."""
        states = [PENDING, *(kind.value for kind in ConditionType)]
        tally = Tally(state_of(job) for job in self._cache.jobs())
        family = GaugeMetricFamily("reknit_operator_jobs", "Jobs by state.", labels=["state"])
        for state in states:
            family.add_metric([state], tally[state])
        yield family
        text = "Jobs that wait for a pass."
        yield GaugeMetricFamily("reknit_operator_queue_depth", text, value=len(self._queue))
        text = "Time that the first of them has waited."
        age = self._queue.age(asyncio.get_running_loop().time())
        yield GaugeMetricFamily("reknit_operator_queue_age_seconds", text, value=age)
        text = "1 if this operator acts, 0 if it stands by."
        yield GaugeMetricFamily("reknit_operator_leader", text, value=float(self._leads()))
        text = "Watches that have fallen silent."
        stale = len(self._freshness.stale())
        yield GaugeMetricFamily("reknit_operator_stale_watches", text, value=stale)
        text = "Lists that had to be made anew because a watch was broken for long."
        relists = self._freshness.num_relists
        yield CounterMetricFamily("reknit_operator_relists", text, value=relists)
