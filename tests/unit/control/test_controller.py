"""The loop around the decisions: isolation of jobs, retries, polling."""

import asyncio

import pytest

from reknit.protocol.status import CheckpointStatus, CoordinatorStatus, MembershipPhase, Promotion
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import Kind
from reknit_operator.local import operator as local_operator
from reknit_operator.local.store import ObjectStore
from reknit_operator.reconcile import poll
from reknit_operator.reconcile.cache import Cache
from reknit_operator.reconcile.controller import Controller
from reknit_operator.reconcile.informer import follow, load
from reknit_operator.reconcile.observe import ref_of
from reknit_operator.reconcile.observed import Ref
from reknit_operator.reconcile.poll import Poller
from reknit_operator.reconcile.queue import KeyedQueue


@pytest.fixture
def store():
    return ObjectStore()


@pytest.fixture
async def operator(store):
    """A controller with its watches, running."""
    cache, queue = Cache(), KeyedQueue()
    poller = Poller(None, queue.add)
    controller = Controller(
        store, cache, queue, poller, options=BuildOptions(), new_token=lambda: "tok"
    )
    versions = {kind: await load(kind, store, cache, queue) for kind in Kind}
    tasks = [
        asyncio.create_task(follow(kind, store, cache, queue, after=version))
        for kind, version in versions.items()
    ]
    tasks.append(asyncio.create_task(controller.run(2)))
    yield controller
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await poller.close()


async def reach(store, fits):
    async with asyncio.timeout(30):
        while not fits():
            await store.changed_since(store.version)


def exists(store, name, kind=Kind.POD):
    return lambda: name in {item["metadata"]["name"] for item in store.peek_all(kind)}


async def test_jobs_get_their_pods(store, operator, make_job):
    for name in ("a", "b"):
        await store.create(make_job(name=name).to_object())
    for name in ("a-worker-0", "a-worker-1", "b-worker-1", "b-coordinator-1"):
        await reach(store, exists(store, name))


async def test_a_pod_that_vanishes_is_made_again(store, operator, make_job):
    await store.create(make_job(name="a").to_object())
    await reach(store, exists(store, "a-worker-0"))
    first = store.peek(Ref(Kind.POD, "default", "a-worker-0"))
    await store.delete(ref_of(first), force=True)
    await reach(store, exists(store, "a-worker-0"))
    assert store.peek(Ref(Kind.POD, "default", "a-worker-0")) != first


async def test_a_job_that_is_not_understood_holds_up_no_other(store, operator, make_job, caplog):
    broken = make_job(name="broken").to_object()
    broken["spec"]["fromTheFuture"] = 1
    await store.create(broken)
    await store.create(make_job(name="a").to_object())
    await reach(store, exists(store, "a-worker-1"))
    assert "default/broken is not understood" in caplog.text
    assert not exists(store, "broken-worker-0")()


async def test_a_taken_name_is_tried_again(store, operator, make_job, caplog):
    metadata = {"name": "a-worker-0", "namespace": "default"}
    foreign = await store.create({"kind": "Pod", "metadata": metadata, "spec": {}})
    await store.create(make_job(name="a").to_object())
    await reach(store, exists(store, "a-worker-1"))
    assert store.peek(ref_of(foreign)) == foreign
    await store.delete(ref_of(foreign), force=True)
    await reach(store, exists(store, "a-worker-0"))
    assert "a-worker-0 exists and does not belong to this job" in caplog.text
    assert "tok" not in caplog.text


async def test_a_watch_that_fell_behind_lists_again(make_job):
    store, cache, queue = ObjectStore(max_changes=5), Cache(), KeyedQueue()
    version = await load(Kind.JOB, store, cache, queue)
    for number in range(20):
        await store.create(make_job(name=f"job-{number}").to_object())
    following = asyncio.create_task(follow(Kind.JOB, store, cache, queue, after=version))
    keys = {await asyncio.wait_for(queue.get(), 10) for _ in range(20)}
    assert keys == {("default", f"job-{number}") for number in range(20)}
    assert all(cache.job(key) is not None for key in keys)
    await store.create(make_job(name="late").to_object())
    assert await asyncio.wait_for(queue.get(), 10) == ("default", "late")
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


class SlowPods:
    """A store whose list of pods takes its time, as a large one may."""

    def __init__(self, store):
        self.store = store

    def __getattr__(self, name):
        return getattr(self.store, name)

    async def list(self, kind, *, labels=None):
        for _ in range(100 if kind is Kind.POD else 0):
            await asyncio.sleep(0)
        return await self.store.list(kind, labels=labels)


async def test_a_new_operator_knows_all_pods_before_it_acts(store, make_job, monkeypatch, tmp_path):
    await store.create(make_job(name="a").to_object())

    class Client(SlowPods):
        def __init__(self, _socket):
            super().__init__(store)

        async def __aenter__(self):
            return self

        async def __aexit__(self, *_error):
            return None

    monkeypatch.setattr(local_operator, "StoreClient", Client)
    for _ in range(2):
        running = asyncio.create_task(local_operator.operate(tmp_path, BuildOptions()))
        await reach(store, exists(store, "a-worker-1"))
        for _ in range(500):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    names = {pod["metadata"]["name"] for pod in store.peek_all(Kind.POD)}
    assert names == {"a-coordinator-1", "a-worker-0", "a-worker-1"}


class Coordinators:
    """In place of the HTTP client: answers from a list, then for ever with the last one."""

    def __init__(self, answers):
        self.answers = answers
        self.target = None
        self.asked = asyncio.Event()

    def __call__(self, _session, address, token):
        self.target = (address, token)
        return self

    async def status(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if len(self.answers) == 1:
            self.asked.set()
        return answer


def report(step, phase=MembershipPhase.RUNNING):
    return CoordinatorStatus(incarnation=1, phase=phase, progress={"step": step})


async def test_polling_tells_of_what_matters(monkeypatch, seconds):
    recovering = report(3, MembershipPhase.RECOVERING)
    promotion = Promotion(agent="gpt-spare-0", replica=1)
    promoted = recovering.model_copy(update={"promotions": (promotion,)})
    answers = [None, report(1), report(2), None, recovering, recovering, promoted]
    coordinators = Coordinators(answers)
    monkeypatch.setattr(poll, "CoordinatorClient", coordinators)
    told = []
    poller = Poller(None, told.append, period=seconds(0))
    poller.follow("key", "127.0.0.1", "tok")
    poller.follow("key", "127.0.0.1", "tok")
    await asyncio.wait_for(coordinators.asked.wait(), 10)
    await poller.close()
    assert coordinators.target == ("127.0.0.1", "tok")
    assert told == ["key", "key", "key"]
    assert poller.report("key") is None


async def test_the_last_report_outlives_a_change_of_the_coordinator(monkeypatch, seconds):
    first, second = Coordinators([report(1)]), Coordinators([None])
    changed = asyncio.Event()
    poller = Poller(None, lambda _key: changed.set(), period=seconds(0))
    monkeypatch.setattr(poll, "CoordinatorClient", first)
    poller.follow("key", "127.0.0.1", "tok")
    await asyncio.wait_for(changed.wait(), 10)
    assert poller.report("key") == report(1)
    monkeypatch.setattr(poll, "CoordinatorClient", second)
    poller.follow("key", "127.0.0.2", "tok")
    await asyncio.wait_for(second.asked.wait(), 10)
    assert poller.report("key") == report(1)
    poller.forget("key")
    assert poller.report("key") is None
    await poller.close()


async def test_a_coordinator_is_heard_before_it_is_deleted(store, operator, make_job, monkeypatch):
    last = report(9).model_copy(update={"checkpoint": CheckpointStatus(unsaved="step 9 is lost")})
    coordinators = Coordinators([report(1), last])
    monkeypatch.setattr(poll, "CoordinatorClient", coordinators)
    job = ref_of(await store.create(make_job(name="a").to_object()))
    await reach(store, exists(store, "a-coordinator-1"))
    coordinator = Ref(Kind.POD, "default", "a-coordinator-1")
    store.set_status(coordinator, {"phase": "Running", "podIP": "127.0.0.1"})
    await reach(store, lambda: bool(coordinators.target))
    store.merge_spec(job, {"suspend": True})
    for name in ("a-worker-0", "a-worker-1"):
        worker = Ref(Kind.POD, "default", name)
        await reach(store, lambda ref=worker: "deletionTimestamp" in store.peek(ref)["metadata"])
        store.finalize(worker)
    await reach(store, lambda: "deletionTimestamp" in store.peek(coordinator)["metadata"])
    conditions = store.peek(job)["status"]["conditions"]
    [suspended] = [found for found in conditions if found["type"] == "Suspended"]
    assert suspended["message"] == "step 9 is lost"
