"""Pods as local processes."""

import asyncio
import os
import signal
import sys

import pytest

from reknit_operator.constants import Kind
from reknit_operator.local.environment import HostEnvironment
from reknit_operator.local.kubelet import Kubelet
from reknit_operator.local.network import Network
from reknit_operator.local.store import ObjectStore
from reknit_operator.local.sweep import ENV_SESSION, find
from reknit_operator.reconcile.client import NotFoundError
from reknit_operator.reconcile.observe import ref_of
from reknit_operator.reconcile.observed import Ref

SESSION = f"kubelet-test-{os.getpid()}"


def pod(*command, name="p", grace=30, env=()):
    env = [
        {"name": "REKNIT_POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        *env,
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {}},
        "spec": {
            "terminationGracePeriodSeconds": grace,
            "containers": [{"name": "training", "command": list(command), "env": env}],
        },
    }


def python(code, **options):
    return pod(sys.executable, "-S", "-c", code, **options)


@pytest.fixture
def store():
    return ObjectStore()


@pytest.fixture
async def kubelet(store, tmp_path):
    """A running kubelet; the test ends it to see what is left."""
    network = Network()
    calls = []

    async def note(_pod):
        calls.append(_pod["metadata"]["name"])

    kubelet = Kubelet(
        store,
        HostEnvironment(SESSION, network.coordinator, dict(os.environ)),
        network,
        log_dir=tmp_path,
        state_dir=tmp_path,
        before_stop=note,
    )
    kubelet.stopped = calls
    task = asyncio.create_task(kubelet.run())
    kubelet.task = task
    yield kubelet
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    network.close()
    assert list(find({ENV_SESSION: SESSION})) == []


@pytest.fixture
def reach(store):
    """Waits until the pod's status fits."""

    async def wait(fits, name="p"):
        async with asyncio.timeout(30):
            while True:
                version = store.version
                try:
                    status = store.peek(Ref(Kind.POD, "default", name))["status"]
                except NotFoundError:
                    status = {"phase": "Gone"}
                if fits(status):
                    return status
                await store.changed_since(version)

    return wait


@pytest.fixture
def ready(tmp_path):
    """Code with which a process says that it has got so far, and how to wait for that."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    async def wait():
        await asyncio.wait_for(asyncio.to_thread(fifo.read_bytes), 30)

    return f"open({str(fifo)!r}, 'wb').close(); ", wait


def in_phase(*phases):
    return lambda status: status["phase"] in phases


def terminated(status):
    return status["containerStatuses"][0]["state"]["terminated"]


async def log_of(tmp_path, name="p"):
    return await asyncio.to_thread((tmp_path / f"{name}.log").read_text)


async def test_a_pod_runs_although_its_log_cannot_be_written(store, kubelet, reach, tmp_path):
    (tmp_path / "p.log").mkdir()
    await store.create(python("print('nobody hears this')"))
    await reach(in_phase("Succeeded"))


async def test_success_with_a_message(store, kubelet, reach, tmp_path):
    code = "import os; print('hello'); "
    code += "open(os.environ['REKNIT_TERMINATION_LOG'], 'w').write('word' * 2000)"
    await store.create(python(code))
    status = await reach(in_phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded"
    assert terminated(status)["exitCode"] == 0
    assert terminated(status)["message"] == "word" * 1024
    assert await log_of(tmp_path) == "hello\n"


@pytest.mark.parametrize(
    ("code", "exit_code", "number"),
    [("raise SystemExit(3)", 3, None), ("import os; os.kill(os.getpid(), 9)", 137, 9)],
)
async def test_failures(store, kubelet, reach, code, exit_code, number):
    await store.create(python(code))
    end = terminated(await reach(in_phase("Failed")))
    assert (end["exitCode"], end.get("signal"), end["reason"]) == (exit_code, number, "Error")


async def test_a_command_that_does_not_exist(store, kubelet, reach, tmp_path):
    await store.create(pod("/no/such/program"))
    assert terminated(await reach(in_phase("Failed")))["exitCode"] == 127
    assert "/no/such/program" in await log_of(tmp_path)


async def test_a_process_that_cannot_be_started_harms_no_other_pod(store, kubelet, reach):
    # More than the kernel takes in one variable.
    await store.create(python("pass", env=[{"name": "LONG", "value": "x" * 200_000}]))
    await store.create(python("pass", name="q"))
    assert terminated(await reach(in_phase("Failed")))["exitCode"] == 126
    await reach(in_phase("Succeeded"), "q")


async def test_a_pod_waits_for_its_secret(store, kubelet, reach, tmp_path):
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    env = [{"name": "WORD", "valueFrom": reference}]
    await store.create(python("import os; print(os.environ['WORD'])", env=env))
    waiting = await reach(lambda status: "containerStatuses" in status)
    state = waiting["containerStatuses"][0]["state"]
    assert state == {"waiting": {"reason": "CreateContainerConfigError"}}
    metadata = {"name": "s", "namespace": "default"}
    await store.create({"kind": "Secret", "metadata": metadata, "data": {"k": "dG9r"}})
    await reach(in_phase("Succeeded"))
    assert await log_of(tmp_path) == "tok\n"


@pytest.mark.parametrize("force", [False, True])
async def test_a_waiting_pod_can_be_deleted(store, kubelet, reach, force):
    reference = {"secretKeyRef": {"name": "s", "key": "k"}}
    created = await store.create(python("pass", env=[{"name": "WORD", "valueFrom": reference}]))
    await reach(lambda status: "containerStatuses" in status)
    await store.delete(ref_of(created), force=force)
    await reach(in_phase("Gone"))


async def test_deletion_gives_notice(store, kubelet, reach, ready, tmp_path):
    say_ready, wait_until_ready = ready
    code = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {15}); "
    code += say_ready + "print(int(signal.sigwait({15})))"
    created = await store.create(python(code))
    await wait_until_ready()
    await store.delete(ref_of(created))
    await reach(in_phase("Gone"))
    assert kubelet.stopped == ["p"]
    assert await log_of(tmp_path) == "15\n"


@pytest.mark.parametrize("grace", [0, 1])
async def test_the_grace_period_ends(store, kubelet, reach, ready, grace):
    say_ready, wait_until_ready = ready
    code = f"import signal; signal.signal(15, signal.SIG_IGN); {say_ready}"
    created = await store.create(python(code + "[signal.pause() for _ in 'ab']", grace=grace))
    await wait_until_ready()
    await store.delete(ref_of(created))
    await reach(in_phase("Gone"))
    assert list(find({ENV_SESSION: SESSION})) == []


async def test_an_ended_pod_stays_until_it_is_deleted(store, kubelet, reach):
    created = await store.create(python("pass"))
    await reach(in_phase("Succeeded"))
    await store.delete(ref_of(created))
    await reach(in_phase("Gone"))


async def test_forced_deletion_kills(store, kubelet, ready):
    say_ready, wait_until_ready = ready
    created = await store.create(python(f"import signal; {say_ready}signal.pause()"))
    await wait_until_ready()
    (pid,) = set(find({ENV_SESSION: SESSION, "REKNIT_POD_NAME": "p"}))
    descriptor = os.pidfd_open(pid)
    await store.delete(ref_of(created), force=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    await asyncio.wait_for(ended.wait(), 30)
    asyncio.get_running_loop().remove_reader(descriptor)
    os.close(descriptor)


async def test_the_rest_of_a_pod_goes_with_its_first_process(store, kubelet, reach):
    code = "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)"
    await store.create(python(code))
    await reach(in_phase("Succeeded"))
    assert list(find({ENV_SESSION: SESSION})) == []


async def test_the_end_of_the_kubelet_ends_its_pods(store, kubelet, reach):
    for name in ("p", "q"):
        await store.create(python("import signal; signal.pause()", name=name))
        await reach(in_phase("Running"), name)
    assert len(list(find({ENV_SESSION: SESSION}))) == 2
    kubelet.task.cancel()
    await asyncio.gather(kubelet.task, return_exceptions=True)
    assert list(find({ENV_SESSION: SESSION})) == []


async def test_pods_ignore_the_terminals_interrupt(store, kubelet, reach, ready):
    """They are in sessions of their own, so Ctrl-C reaches the host alone."""
    say_ready, wait_until_ready = ready
    await store.create(python(f"import signal; {say_ready}signal.pause()"))
    await wait_until_ready()
    (pid,) = set(find({ENV_SESSION: SESSION}))
    assert os.getsid(pid) == pid != os.getsid(0)
    os.kill(pid, signal.SIGKILL)
    await reach(in_phase("Failed"))
