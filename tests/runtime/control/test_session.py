"""A whole job on the local backend: real operator, real processes, a stand-in for training."""

import asyncio
import json
import os
import signal
import socket
from datetime import timedelta

import aiohttp
import pytest

from fulldisk import room
from reknit.errors import ConfigurationError
from reknit.protocol.outcome import ExitClass
from reknit_operator.local.sweep import ENV_SESSION, find

WORKERS = ("job-worker-0", "job-worker-1")
COORDINATOR = "job-coordinator-1"


def condition(job, kind):
    return next((item for item in job.status.conditions if item.type == kind), None)


def reasons(session):
    return [event["reason"] for event in session.events()]


async def test_a_job_runs_to_its_success(make_session, stage, signal_pod, patience, tmp_path):
    session = await make_session()
    notes = await stage.ready(*WORKERS, COORDINATOR)
    addresses = [note["pod_ip"] for note in notes.values()]
    assert len(set(addresses)) == 3
    coordinator = notes[COORDINATOR]
    assert {notes[name]["coordinator"] for name in WORKERS} == {f"{coordinator['pod_ip']}:7070"}
    assert {note["session"] for note in notes.values()} == {session.session_id}
    for name in WORKERS:
        signal_pod(notes[name])
    async with patience():
        job = await session.wait()
    assert condition(job, "Succeeded").status == "True"
    assert condition(job, "Succeeded").message == f"told by {signal.SIGUSR1.value}"
    assert job.status.completion_time is not None
    assert reasons(session) == ["Started", "Completed"]
    assert (tmp_path / "run/logs/job-worker-0.log").read_text() == "leaving\n"
    assert (await session.status()) is None
    # What the workers left behind has gone with their pods.
    left = set(find({ENV_SESSION: session.session_id}))
    assert left == {session.operator_pid}


async def test_a_program_error_reaches_the_status(make_session, stage, signal_pod, patience):
    session = await make_session()
    notes = await stage.ready(*WORKERS, COORDINATOR)
    signal_pod(notes["job-worker-1"], signal.SIGUSR2)
    async with patience():
        job = await session.wait()
    assert condition(job, "Failed").reason == "ProgramError"
    assert job.status.traceback is not None
    assert job.status.traceback.endswith("ValueError: no")
    assert job.status.failures == {ExitClass.PROGRAM_ERROR: 1}
    assert "train.py" in session.events()[-1]["message"]


async def test_the_loss_of_operator_coordinator_and_worker(
    make_session, stage, signal_pod, patience, wait_for_end
):
    """Each comes back by itself; training goes on in the pods that were not hit."""
    stage.set_history("First")
    session = await make_session()
    notes = await stage.ready(*WORKERS, COORDINATOR)
    operator = session.operator_pid
    assert operator is not None
    assert await told(session, 1) == [("First", COORDINATOR)]

    descriptor = os.pidfd_open(operator)
    os.kill(operator, signal.SIGKILL)
    assert wait_for_end([descriptor]) == set()
    os.close(descriptor)

    stage.set_history("Second")
    signal_pod(notes[COORDINATOR], signal.SIGKILL)
    successor = (await stage.ready("job-coordinator-2"))["job-coordinator-2"]
    assert successor["pod_ip"] == notes[COORDINATOR]["pod_ip"]
    assert successor["incarnation"] == "2"
    assert session.operator_pid not in (None, operator)
    assert await told(session, 2) == [("First", COORDINATOR), ("Second", "job-coordinator-2")]

    signal_pod(notes["job-worker-1"], signal.SIGKILL)
    replacement = (await stage.ready("job-worker-1-1"))["job-worker-1-1"]
    os.kill(notes["job-worker-0"]["pid"], 0)  # it still lives
    assert session.job().status.failures == {ExitClass.KILLED: 2}
    assert session.job().status.replacements == {"worker-1": 1, "coordinator-0": 1}
    signal_pod(notes["job-worker-0"])
    signal_pod(replacement)
    async with patience():
        job = await session.wait()
    assert condition(job, "Succeeded").status == "True"


async def test_stopping_suspends_the_job(make_session, stage, patience, tmp_path):
    session = await make_session()
    await stage.ready(*WORKERS, COORDINATOR)
    waiting = asyncio.create_task(session.wait())
    async with patience():
        await session.stop(timedelta(seconds=30))
        job = await waiting
    assert condition(job, "Suspended").status == "True"
    assert job.status.completion_time is None
    assert (tmp_path / "run/logs/job-worker-0.log").read_text() == "leaving\n"


async def test_stopping_does_not_wait_for_ever(make_session, stage, patience, tmp_path):
    session = await make_session(variables={"STUBBORN": "1"})
    await stage.ready(*WORKERS, COORDINATOR)
    async with patience():
        await session.stop(timedelta(milliseconds=300))
        await session.wait()
    assert (tmp_path / "run/logs/job-worker-0.log").read_text() == ""


async def test_a_later_run_in_the_same_folder_goes_on_counting(
    make_session, stage, signal_pod, patience
):
    stage.set_history("First")
    session = await make_session(replicas=1)
    await stage.ready("job-worker-0", COORDINATOR)
    assert await told(session, 1) == [("First", COORDINATOR)]
    await session.close()
    stage.seen.clear()
    session = await make_session(replicas=1)
    notes = await stage.ready("job-worker-0", "job-coordinator-2")
    assert notes["job-coordinator-2"]["incarnation"] == "2"
    assert [reason for reason, _ in await told(session, 2)] == ["First", "First"]
    signal_pod(notes["job-worker-0"])
    async with patience():
        await session.wait()


async def test_a_run_folder_that_is_full_for_a_while_costs_nothing(
    make_session, stage, signal_pod, patience, tmp_path
):
    """Also not if a coordinator dies meanwhile."""
    run = tmp_path / "run"
    stage.set_history("First")
    session = await make_session()
    notes = await stage.ready(*WORKERS, COORDINATOR)
    assert await told(session, 1) == [("First", COORDINATOR)]
    assert session.failure() is None

    stage.set_history("First", "Second")
    with room(0):
        assert await told(session, 2) == [("First", COORDINATOR), ("Second", COORDINATOR)]
        assert session.failure().startswith(f"the run folder {run} cannot be written: ")
        assert session.num_unwritten() == 1
        signal_pod(notes[COORDINATOR], signal.SIGKILL)
        await stage.ready("job-coordinator-2")
        await told(session, 4)
        assert reasons_in(run) == ["First"]
        assert (run / "incarnation").read_text() == "1"

    stage.set_history("First", "Second", "Third")
    await told(session, 5)
    assert (session.failure(), session.num_unwritten()) == (None, 0)
    assert reasons_in(run) == ["First", "Second", "First", "Second", "Third"]
    assert (run / "incarnation").read_text() == "2"
    for name in WORKERS:
        signal_pod(notes[name])
    async with patience():
        job = await session.wait()
    assert condition(job, "Succeeded").status == "True"


async def test_a_run_folder_that_stays_full_does_not_change_how_the_job_ends(
    make_session, stage, signal_pod, patience, tmp_path
):
    stage.set_history("First")
    session = await make_session()
    notes = await stage.ready(*WORKERS, COORDINATOR)
    await told(session, 1)
    stage.set_history("First", "Second")
    with room(0):
        for name in WORKERS:
            signal_pod(notes[name])
        async with patience():
            job = await session.wait()
        await session.close()
        assert session.num_unwritten() == 1
        assert session.failure()
    assert condition(job, "Succeeded").status == "True"
    assert [record.reason for record in session.records(0).records] == ["First", "Second"]
    assert reasons_in(tmp_path / "run") == ["First"]


def reasons_in(run):
    lines = (run / "history.jsonl").read_text().splitlines()
    return [json.loads(line)["reason"] for line in lines]


async def test_killing_a_rank_and_reading_metrics(make_session, stage, wait_for_end):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    session = await make_session(metrics_port=port, replicas=1)
    async with aiohttp.ClientSession() as http:
        url = f"http://127.0.0.1:{port}/metrics"
        async with http.get(url) as response:
            assert response.status in (200, 503)
        notes = await stage.ready("job-worker-0", COORDINATOR)
        async with http.get(url) as response:
            assert await response.text() == "reknit_step 7\n"
    child = notes["job-worker-0"]["child"]
    stage.set_status(rank0=child, rank1=os.getpid())
    status = await session.status()
    assert status is not None
    assert (status.incarnation, status.ranks[0].pid) == (1, child)
    assert await session.kill_rank(1) is False  # this very process is none of the session's
    assert await session.kill_rank(2) is False
    assert await session.kill_rank(0) is True
    await gone(child)


async def gone(pid):
    """Waits for the end of a process that is no child of this one."""
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, ended.set)
    await asyncio.wait_for(ended.wait(), 30)
    loop.remove_reader(descriptor)
    os.close(descriptor)


async def test_a_port_in_use_is_told_before_anything_starts(make_session, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port}"):
            await make_session(metrics_port=port)
    assert not (tmp_path / "run").exists()


async def test_a_run_folder_that_cannot_be_used_is_told(make_session, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="run folder"):
        await make_session(run_dir=tmp_path / "file" / "run")


async def told(session, number):
    """The first `number` events that coordinators have told of, with their names."""
    async with asyncio.timeout(30):
        await session.more_records(number - 1)
    return [(record.reason, record.message) for record in session.records(0).records]
