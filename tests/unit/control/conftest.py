"""Makers of jobs and pods for tests of the control plane."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit_operator.api.types import DistributedTrainingJob, JobStatus, Metadata
from reknit_operator.constants import Kind, Role, coordinator_name, training_pod_name
from reknit_operator.reconcile.decide import decide
from reknit_operator.reconcile.observed import Observed, Pod, PodPhase, Ref

NOW = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
UID = "uid-of-job"
SERVICE = Ref(Kind.SERVICE, "default", "gpt", "s")
SECRET = Ref(Kind.SECRET, "default", "gpt-token", "t")


def _job(*, status: JobStatus | None = None, name: str = "gpt", **spec) -> DistributedTrainingJob:
    spec = {
        "entrypoint": {"function": "gpt:train"},
        "batch": {"global": 8, "micro": 2},
        "workers": {"replicas": 2},
        **spec,
    }
    return DistributedTrainingJob(
        metadata=Metadata(name=name, uid=UID, generation=3, resource_version="7"),
        spec=spec,
        status=status or JobStatus(),
    )


def _worker(replica: int = 0, *, attempt: int = 1, replacement: int = 0, **fields) -> Pod:
    name = training_pod_name("gpt", Role.WORKER, replica, attempt=attempt, replacements=replacement)
    fields = {"phase": PodPhase.RUNNING, "ready": True, "created": NOW, **fields}
    ref = Ref(Kind.POD, "default", name, f"uid-{name}")
    if PodPhase(fields["phase"]) in (PodPhase.SUCCEEDED, PodPhase.FAILED):
        fields["ready"] = False
    return Pod(ref, "worker", replica, attempt, replacement, **fields)


def _spare(index: int = 0, *, attempt: int = 1, replacement: int = 0, **fields) -> Pod:
    name = training_pod_name("gpt", Role.SPARE, index, attempt=attempt, replacements=replacement)
    pod = _worker(index, attempt=attempt, replacement=replacement, **fields)
    ref = Ref(Kind.POD, "default", name, f"uid-{name}")
    return replace(pod, ref=ref, role="spare")


def _coordinator(incarnation: int = 1, *, attempt: int = 1, replacement: int = 0, **fields) -> Pod:
    name = coordinator_name("gpt", incarnation)
    fields = {"phase": PodPhase.RUNNING, "ready": True, "created": NOW, **fields}
    ref = Ref(Kind.POD, "default", name, f"uid-{name}")
    return Pod(ref, "coordinator", 0, attempt, replacement, incarnation=incarnation, **fields)


def _conclusion(exit_class: ExitClass, *, traceback: str | None = None) -> Conclusion:
    error = None
    if traceback is not None:
        error = ErrorReport(exception="ValueError: no", traceback=traceback)
    return Conclusion(exit_class=exit_class, message=f"said {exit_class}", error=error, step=9)


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture
def seconds():
    return lambda number: timedelta(seconds=number)


@pytest.fixture
def make_job():
    return _job


@pytest.fixture
def make_worker():
    return _worker


@pytest.fixture
def make_spare():
    return _spare


@pytest.fixture
def make_coordinator():
    return _coordinator


@pytest.fixture
def make_conclusion():
    return _conclusion


@pytest.fixture
def settled(make_job, make_worker, make_coordinator, now):
    """The world of a job; without `status`, one that has been running undisturbed so far."""

    def make(*pods, status=None, with_pods=True, job=None, **fields):
        job = job or make_job()
        everything = (make_coordinator(), make_worker(0), make_worker(1)) if with_pods else ()
        given = {pod.ref.name for pod in pods}
        everything = (*(pod for pod in everything if pod.ref.name not in given), *pods)
        fields = {"passive": (SERVICE, SECRET), "written": now, **fields}
        if status is None:
            first = decide(Observed(job=job), now)
            assert first.status is not None
            spares = (_spare(index) for index in range(job.spec.spares.replicas))
            healthy = (make_coordinator(), make_worker(0), make_worker(1), *spares)
            begun = job.model_copy(update={"status": first.status})
            before = Observed(job=begun, pods=healthy, **fields)
            status = decide(before, now).status or first.status
        job = job.model_copy(update={"status": status})
        return Observed(job=job, pods=everything, **fields)

    return make
