"""Carrying out plans."""

import pytest

from reknit_operator.api.types import JobStatus
from reknit_operator.build.options import BuildOptions
from reknit_operator.build.secret import build_secret
from reknit_operator.build.worker import build_worker
from reknit_operator.constants import Kind
from reknit_operator.local.store import ObjectStore
from reknit_operator.reconcile.apply import NameTakenError, apply
from reknit_operator.reconcile.cache import Cache
from reknit_operator.reconcile.client import ConflictError, NotFoundError
from reknit_operator.reconcile.observe import ref_of
from reknit_operator.reconcile.observed import Ref
from reknit_operator.reconcile.plan import Delete, JobEvent, Plan


class Recorder:
    """The store, writing down the order of calls."""

    def __init__(self, store):
        self.store = store
        self.calls = []
        self.broken = set()

    def __getattr__(self, name):
        async def call(*arguments, **options):
            subject = arguments[0]
            label = subject["kind"] if isinstance(subject, dict) else str(subject.kind)
            self.calls.append((name, label))
            if (name, label) in self.broken:
                raise OSError("no answer")
            return await getattr(self.store, name)(*arguments, **options)

        return call


@pytest.fixture
def client():
    return Recorder(ObjectStore())


@pytest.fixture
async def job(client, make_job):
    return await client.store.create(make_job().to_object())


@pytest.fixture
def children(make_job, job):
    parsed = make_job()
    uid = job["metadata"]["uid"]
    parsed = parsed.model_copy(update={"metadata": parsed.metadata.model_copy(update={"uid": uid})})

    def make(*replicas):
        pods = [
            build_worker(parsed, BuildOptions(), replica, attempt=1, replacements=0)
            for replica in replicas
        ]
        return (*pods, build_secret(parsed, "t"))

    return make


EVENT = JobEvent("Warning", "Test", "x" * 2000)


async def test_order(client, job, children):
    status = JobStatus(attempts=1)
    plan = Plan(status=status, creates=children(0, 1), events=(EVENT,))
    cache = Cache()
    assert await apply(plan, job, client, cache) is True
    steps = [("patch_status", "DistributedTrainingJob"), ("create", "Secret")]
    steps += [("create", "Pod"), ("create", "Pod"), ("record_event", "Event")]
    assert client.calls == steps
    (event,) = client.store.events
    assert (event["reason"], len(event["message"])) == ("Test", 1024)
    assert event["involvedObject"]["uid"] == job["metadata"]["uid"]
    key = ("default", "gpt")
    assert cache.job(key)["status"]["attempts"] == 1
    assert len(cache.children(key)) == 3


async def test_nothing_happens_when_the_job_has_changed(client, job, children):
    client.store.merge_spec(ref_of(job), {"seed": 1})
    plan = Plan(status=JobStatus(attempts=1), creates=children(0), events=(EVENT,))
    with pytest.raises(ConflictError):
        await apply(plan, job, client, Cache())
    assert client.calls == [("patch_status", "DistributedTrainingJob")]


async def test_nothing_happens_when_the_job_is_gone(client, job, children):
    await client.store.delete(ref_of(job))
    with pytest.raises(NotFoundError):
        await apply(Plan(status=JobStatus(), creates=children(0)), job, client, Cache())
    assert len(client.calls) == 1


async def test_a_child_that_exists_already_is_taken_in(client, job, children):
    cache = Cache()
    plan = Plan(creates=children(0))
    assert await apply(plan, job, client, Cache()) is False
    await apply(plan, job, client, cache)
    assert len(cache.children(("default", "gpt"))) == 2


async def test_a_name_that_someone_else_has_is_reported_and_the_rest_is_done(client, job, children):
    pods = children(0, 1)
    foreign = {**pods[0], "metadata": {"name": "gpt-worker-0", "namespace": "default"}}
    await client.store.create(foreign)
    with pytest.raises(NameTakenError, match="Pod gpt-worker-0"):
        await apply(Plan(creates=pods, events=(EVENT,)), job, client, Cache())
    assert client.store.peek(Ref(Kind.POD, "default", "gpt-worker-1"))
    assert len(client.store.events) == 1


async def test_deleting_what_is_gone_is_fine(client, job):
    await apply(Plan(deletes=(Delete(Ref(Kind.POD, "default", "x", "u")),)), job, client, Cache())
    assert client.calls == [("delete", "Pod")]


async def test_only_the_object_that_was_meant_is_deleted(client, job, children):
    await apply(Plan(creates=children(0)), job, client, Cache())
    other = Ref(Kind.POD, "default", "gpt-worker-0", "another uid")
    await apply(Plan(deletes=(Delete(other, force=True),)), job, client, Cache())
    assert client.store.peek(Ref(Kind.POD, "default", "gpt-worker-0"))


async def test_several_errors_are_all_told(client, job, children):
    client.broken = {("create", "Pod")}
    with pytest.raises(ExceptionGroup) as caught:
        await apply(Plan(creates=children(0, 1)), job, client, Cache())
    assert len(caught.value.exceptions) == 2
