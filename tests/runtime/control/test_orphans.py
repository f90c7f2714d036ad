"""However the host of a session ends, no process of the session stays."""

import contextlib
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from reknit_operator.local.sweep import ENV_SESSION, find, kill, sweep

HOST = """
import asyncio, sys
from pathlib import Path
from reknit_operator.api.load import load_manifest
from reknit_operator.local.session import LocalSession

async def host():
    session = LocalSession(
        load_manifest(sys.stdin.read()), run_dir=Path(sys.argv[1]), python_path=[],
        python=sys.argv[2],
    )
    await session.start()
    await session.wait()

asyncio.run(host())
"""

FAMILY = f"family-{os.getpid()}"
MINE = f"mine-{os.getpid()}"

MANIFEST = """
apiVersion: reknit.dev/v1alpha1
kind: DistributedTrainingJob
metadata: {name: job}
spec:
  entrypoint: {function: "train:train"}
  batch: {global: 8, micro: 2}
  workers: {replicas: 2}
"""


@pytest.fixture
def host(stage, tmp_path):
    """A process that hosts a session."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOST, str(tmp_path / "run"), str(stage.python)],
        env=stage.variables(STUBBORN="1", TMPDIR=str(stage.folder)),
        stdin=subprocess.PIPE,
    )
    process.stdin.write(MANIFEST.encode())
    process.stdin.close()
    yield process
    process.kill()
    process.wait()


async def test_nothing_outlives_a_host_that_is_killed(host, stage, wait_for_end):
    names = ("job-worker-0", "job-worker-1", "job-coordinator-1")
    notes = await stage.ready(*names)
    marks = {ENV_SESSION: notes["job-worker-0"]["session"]}
    pids = set(find(marks))
    expected = {note["pid"] for note in notes.values()}
    expected |= {notes[name]["child"] for name in names[:2]}
    assert expected < pids  # and the operator
    assert len(pids) == 6
    (watchdog,) = watchdogs(notes["job-worker-0"]["session"])
    (folder,) = stage.folder.glob("reknit-*")
    descriptors = [os.pidfd_open(pid) for pid in (*pids, watchdog)]
    host.send_signal(signal.SIGKILL)
    assert wait_for_end(descriptors, timedelta(seconds=30)) == set()
    for descriptor in descriptors:
        os.close(descriptor)
    assert list(find(marks)) == []
    assert not folder.exists()


def watchdogs(session):
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and session.encode() in (entry / "cmdline").read_bytes():
                yield int(entry.name)


@pytest.fixture
def sleeper():
    """Starts processes with a mark in their environment."""
    started = []

    def start(**marks):
        process = subprocess.Popen(["sleep", "600"], env={**os.environ, **marks})
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_only_marked_processes_are_killed(sleeper):
    mine, other, neither = sleeper(MARK=MINE, TWO="1"), sleeper(MARK=MINE + "x"), sleeper()
    assert kill(other.pid, {"MARK": MINE}) is False
    assert kill(neither.pid, {"MARK": MINE}) is False
    assert set(find({"MARK": MINE, "TWO": "1"})) == {mine.pid}
    assert sweep({"MARK": MINE}) == 1
    assert mine.wait(30) == -signal.SIGKILL
    assert (other.poll(), neither.poll()) == (None, None)
    assert sweep({"MARK": MINE}) == 0
    assert kill(mine.pid, {"MARK": MINE}) is False


def test_a_sweep_takes_in_descendants():
    process = subprocess.Popen(
        ["sh", "-c", "sleep 600 & sleep 600 & echo ready; wait"],
        env={**os.environ, "MARK": FAMILY},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout.readline() == b"ready\n"
        assert sweep({"MARK": FAMILY}) == 3
        assert set(find({"MARK": FAMILY})) == set()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
