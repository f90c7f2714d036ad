"""A world in virtual time: the real store, cache, controller and decisions; pods are pretended."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from reknit.protocol.outcome import AGENT_EXIT_CODES, Conclusion, ExitClass
from reknit.protocol.status import CoordinatorStatus, MembershipPhase, Promotion
from reknit_operator.api.types import DistributedTrainingJob, Metadata
from reknit_operator.build.options import BuildOptions
from reknit_operator.constants import (
    LABEL_ATTEMPT,
    LABEL_INCARNATION,
    LABEL_REPLICA,
    LABEL_ROLE,
    Kind,
)
from reknit_operator.local import podstatus
from reknit_operator.local.store import ObjectStore
from reknit_operator.reconcile.cache import Cache
from reknit_operator.reconcile.client import ConflictError, NotFoundError, WatchEvent
from reknit_operator.reconcile.controller import Controller
from reknit_operator.reconcile.observe import ref_of
from reknit_operator.reconcile.observed import Ref

KEY = ("default", "gpt")
JOB = Ref(Kind.JOB, *KEY)
RUNS = ("Pending", "Running")


class CrashError(Exception):
    """The operator's process has died."""


class WatchedStore(ObjectStore):
    """The store; every write is logged, and checked for what may never happen."""

    def __init__(self, now):
        super().__init__(now)
        self.log = []
        self.pod_names = []
        self.has_two_operators = False
        self.displaced = set()
        """Names of pods that are no more what they were created as: they go in their own time."""

    def _publish(self, kind, item):
        super()._publish(kind, item)
        self.log.append(WatchEvent(kind, item))

    def set_status(self, ref, status):
        if ref.kind is Kind.JOB:
            old = self.peek(ref).get("status", {})
            for field in ("failures", "replacements"):
                for name, count in old.get(field, {}).items():
                    assert status.get(field, {}).get(name, 0) >= count, f"{field} went back"
            assert status["attempts"] >= old.get("attempts", 0)
            before = old.get("membership", {}).get("incarnation", 0)
            assert status["membership"]["incarnation"] >= before
            self._note_promotions(old.get("promotions", {}), status.get("promotions", {}))
            assert "completionTime" not in old or old["completionTime"] == status["completionTime"]
        return super().set_status(ref, status)

    async def create(self, item):
        if item["kind"] == Kind.POD:
            self._check_new_pod(item)
        return await super().create(item)

    def _note_promotions(self, before, after):
        assert len(set(after.values())) == len(after), "a pod is two workers"
        for key, name in after.items():
            if before.get(key) == name:
                continue
            self.displaced |= {name, before.get(key)}
            for pod in self.peek_all(Kind.POD):
                labels = pod["metadata"]["labels"]
                if key == f"{labels[LABEL_ROLE]}-{labels[LABEL_REPLICA]}":
                    self.displaced.add(pod["metadata"]["name"])

    def _check_new_pod(self, item):
        status, labels = self.peek(JOB)["status"], item["metadata"]["labels"]
        name, role = item["metadata"]["name"], labels[LABEL_ROLE]
        pods = self.peek_all(Kind.POD)
        if any(pod["metadata"]["name"] == name for pod in pods):
            return
        assert "completionTime" not in status, "a finished job got a pod"
        assert labels[LABEL_ATTEMPT] == str(status["attempts"])
        if role == "coordinator":
            assert status["membership"]["incarnation"] >= int(labels[LABEL_INCARNATION])
            assert name not in self.pod_names, f"{name} was created twice"
        rivals = [
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["labels"][LABEL_ROLE] == role
            and pod["metadata"]["labels"][LABEL_REPLICA] == labels[LABEL_REPLICA]
            and pod["status"]["phase"] in RUNS
            and "deletionTimestamp" not in pod["metadata"]
            and pod["metadata"]["name"] not in self.displaced
        ]
        present = {pod["metadata"]["name"] for pod in pods if pod["status"]["phase"] in RUNS}
        worker = status.get("promotions", {}).get(f"worker-{labels[LABEL_REPLICA]}")
        assert role != "worker" or worker not in present, f"{name} was created beside {worker}"
        # Of two operators at once, one may not know yet of the coordinator that the other one has
        # made; the higher incarnation wins and the lower one goes.
        if role != "coordinator" or not self.has_two_operators:
            assert not rivals, f"{name} was created beside {rivals}"
        earlier = [
            pod["metadata"]["name"]
            for pod in pods
            if pod["metadata"]["labels"][LABEL_ATTEMPT] != labels[LABEL_ATTEMPT]
            and pod["status"]["phase"] in RUNS
        ]
        assert not earlier, f"{name} was created while {earlier} of another attempt run"
        self.pod_names.append(name)


def has_agent(pod):
    return pod["metadata"]["labels"][LABEL_ROLE] != "coordinator"


class Connection:
    """The operator's way to the store; breaks before or after a chosen write."""

    def __init__(self, store):
        self.store = store
        self.num_writes = 0
        self.break_at = None
        self.reaches = True

    def __getattr__(self, name):
        async def call(*arguments, **options):
            if name == "get":
                return await self.store.get(*arguments, **options)
            breaks = self.break_at == self.num_writes
            self.num_writes += 1
            if breaks and not self.reaches:
                raise CrashError
            try:
                return await getattr(self.store, name)(*arguments, **options)
            finally:
                if breaks:
                    raise CrashError

        return call


class Desk:
    """Stands in for the queue and for the poller of the controller."""

    def __init__(self, world):
        self.world = world

    def add(self, _key, after):
        self.world.wakes_at = self.world.now + after

    def report(self, _key):
        return self.world.report()

    async def confirm_gone(self, _key, pod):
        assert pod not in {item["metadata"]["name"] for item in self.world.pods()}
        self.world.missing -= {pod}
        return True

    def follow(self, _key, _address, _token):
        return

    async def ask(self, _key):
        return

    def forget(self, _key):
        return


class World:
    """One job, one operator that may crash and lag, and pods that do what a test says."""

    def __init__(self, runner, **spec):
        self.runner = runner
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.store = WatchedStore(lambda: self.now)
        self.connection = Connection(self.store)
        self.wakes_at = None
        self.finishing = False
        self.missing = set()
        """Pods that the coordinator waits for a word about."""
        self.promotions = {}
        """What it says of spares, by the replica of the worker."""
        self.other = None
        spec = {
            "entrypoint": {"function": "gpt:train"},
            "batch": {"global": 8, "micro": 2},
            "workers": {"replicas": 2},
            **spec,
        }
        job = DistributedTrainingJob(metadata=Metadata(name=KEY[1]), spec=spec).to_object()
        job["status"] = {"attempts": 0, "membership": {}}
        self.do(self.store.create(job))
        self.start_operator()

    def do(self, step):
        """Runs a coroutine that never waits."""
        try:
            step.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("the step waits for something")

    def start_operator(self):
        """A new operator: its cache is what the store lists, it remembers nothing else."""
        self.cache = Cache()
        for kind in Kind:
            self.cache.replace(kind, self.do(self.store.list(kind)))
        self.delivered = {
            kind: sum(event.object["kind"] == kind for event in self.store.log) for kind in Kind
        }
        self.connection.break_at = None
        self.controller = Controller(
            self.connection,
            self.cache,
            Desk(self),
            Desk(self),
            options=BuildOptions(coordinator_clients=("reknit-system",), disruption_budgets=True),
            new_token=lambda: "token",
            now=lambda: self.now,
        )

    def switch_operator(self):
        """Changes between two operators that both live, as when a new one starts too early."""
        self.store.has_two_operators = True
        mine = (self.cache, self.delivered, self.controller)
        if self.other is None:
            self.start_operator()
        else:
            self.cache, self.delivered, self.controller = self.other
        self.other = mine

    def deliver(self, number=None, kind=None):
        """Lets the operator's watches see the next changes: of each kind its own watch does."""
        for watched in Kind if kind is None else (kind,):
            log = [event for event in self.store.log if event.object["kind"] == watched]
            start = self.delivered[watched]
            fresh = log[start:] if number is None else log[start : start + number]
            for event in fresh:
                self.cache.handle(event)
            self.delivered[watched] = start + len(fresh)

    def reconcile(self, *, break_at=None, reaches=True):
        """One pass; with `break_at` the operator dies at that write. Returns the writes made."""
        self.connection.num_writes = 0
        self.connection.break_at = break_at
        self.connection.reaches = reaches
        self.wakes_at = None
        self.crashed = False
        try:
            self.runner.run(self.controller.reconcile(KEY))
        except* CrashError:
            self.crashed = True
            self.start_operator()
        except* (ConflictError, NotFoundError):
            self.crashed = False
        return self.connection.num_writes

    def tick(self, seconds):
        self.now += timedelta(seconds=seconds)

    def pods(self, role=None, *, running=True):
        return [
            pod
            for pod in self.store.peek_all(Kind.POD)
            if role in (None, pod["metadata"]["labels"][LABEL_ROLE])
            and (not running or pod["status"]["phase"] in RUNS)
        ]

    def worker(self, replica):
        for pod in self.pods("worker"):
            if pod["metadata"]["labels"][LABEL_REPLICA] == str(replica):
                return pod
        return None

    def kubelet(self):
        """Starts and stops pods as asked; once `finishing`, all workers end with success."""
        for pod in self.store.peek_all(Kind.POD):
            ref, phase = ref_of(pod), pod["status"]["phase"]
            if "deletionTimestamp" in pod["metadata"]:
                if phase in RUNS:
                    self.end(pod, ExitClass.PREEMPTED)
                self.store.finalize(ref)
            elif phase == "Pending":
                self.store.set_status(ref, podstatus.running(pod, "127.1.1.1", self.now))
            elif phase == "Running" and self.finishing and has_agent(pod):
                self.end(pod, ExitClass.SUCCEEDED, word=True)

    def end(self, pod, exit_class, *, word=False, code=None):
        """Ends a pod's container, with or without a termination message."""
        message = ""
        if word:
            message = Conclusion(exit_class=exit_class, message="said so").termination_message()
        code = AGENT_EXIT_CODES[exit_class] if code is None else code
        status = podstatus.ended(pod, code, message, started=self.now, now=self.now)
        self.store.set_status(ref_of(pod), status)

    def drop(self, pod):
        """Takes a pod away without a trace, like a forced deletion."""
        self.do(self.store.delete(ref_of(pod), force=True))

    def suspend(self, suspend):
        """Sets spec.suspend if it is not so already."""
        if self.job().spec.suspend is not suspend:
            self.store.merge_spec(JOB, {"suspend": suspend})

    def report(self):
        """What the coordinator says; nothing as long as it has no question and no spare.

        It may not have heard yet that a pod has ended.
        """
        if not self.missing and not self.promotions:
            return None
        existing = {pod["metadata"]["name"] for pod in self.pods(running=False)}
        return CoordinatorStatus(
            incarnation=self.job().status.membership.incarnation,
            phase=MembershipPhase.WAITING,
            missing=tuple(sorted(self.missing)),
            promotions=tuple(
                promotion for promotion in self.promotions.values() if promotion.agent in existing
            ),
        )

    def promote(self, number):
        """The coordinator gives a spare the place of a worker that it does not hear.

        The worker's pod may be well all the same.
        """
        taken = {promotion.agent for promotion in self.promotions.values()}
        names = [
            pod["metadata"]["name"]
            for pod in self.pods("spare")
            if pod["status"]["phase"] == "Running" and pod["metadata"]["name"] not in taken
        ]
        if not names:
            return
        replica = number % 2
        before, worker = self.promotions.get(replica), self.worker(replica)
        lost = worker["metadata"]["name"] if worker else None
        self.promotions[replica] = Promotion(
            agent=names[number % len(names)],
            replica=replica,
            instead_of=before.agent if before else lost,
        )

    def staff(self):
        """The pods with agents that run and are not on their way out."""
        return [
            pod
            for pod in self.pods()
            if has_agent(pod) and "deletionTimestamp" not in pod["metadata"]
        ]

    def job(self):
        try:
            return DistributedTrainingJob.model_validate(self.store.peek(JOB))
        except NotFoundError:
            return None

    def settle(self, limit=60):
        """Lets everything happen without further faults until nothing is left to do now.

        Then the second look at the same world must find nothing to do.
        """
        for _ in range(limit):
            before = len(self.store.log)
            self.kubelet()
            self.deliver()
            self.reconcile()
            self.deliver()
            if len(self.store.log) == before:
                if not self.is_waiting():
                    assert self.reconcile() == 0
                    return
                assert self.wakes_at is not None, "it waits for something that nobody brings"
                self.now = max(self.now, self.wakes_at)
        raise AssertionError("the job does not come to rest")

    def is_waiting(self):
        """Whether pods are missing that the operator has promised to create or remove later."""
        job = self.job()
        if job is None or job.status.completion_time or job.spec.suspend:
            return False
        number = job.spec.workers.replicas + job.spec.spares.replicas
        return len(self.staff()) != number or not self.pods("coordinator")

    def condition(self, kind):
        conditions = self.job().status.conditions
        return next((item.status for item in conditions if item.type == kind), None)


@pytest.fixture(scope="session")
def make_world():
    """Makes worlds; all of them share one event loop, for making one takes longer than a pass."""
    with asyncio.Runner() as runner:
        yield lambda **spec: World(runner, **spec)
