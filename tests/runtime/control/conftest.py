"""Real sessions whose pods run a stand-in program."""

import asyncio
import json
import os
import select
import signal
import socket
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from reknit_operator.api.types import DistributedTrainingJob, Metadata
from reknit_operator.local.session import LocalSession
from reknit_operator.local.sweep import ENV_SESSION, find

STANDIN = Path(__file__).with_name("standin.py")
PATIENCE = 60


class Stage:
    """The folder that stand-ins look into, and the notes that they send."""

    def __init__(self, folder):
        self.folder = folder
        self.notes = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notes.bind(str(folder / "notes"))
        self.notes.setblocking(False)
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{STANDIN}" "$@"\n')
        self.python.chmod(0o755)
        self.seen = {}
        self.set_status()
        self.set_history()

    def set_status(self, **pids):
        """What coordinators answer; `pids` are those of ranks, like rank0=123."""
        ranks = [
            {
                "rank": int(name.removeprefix("rank")),
                "agent": "a",
                "node": "n",
                "phase": "Step",
                "step": 7,
                "pid": pid,
            }
            for name, pid in pids.items()
        ]
        status = {"incarnation": "INCARNATION", "phase": "Running", "ranks": ranks}
        (self.folder / "status.json").write_text(json.dumps(status))

    def set_history(self, *reasons):
        records = [
            {"kind": "event", "time": 0.0, "reason": reason, "message": ""} for reason in reasons
        ]
        (self.folder / "history.json").write_text(json.dumps(records))

    async def ready(self, *names):
        """Waits until these pods have told that they run; returns their notes by name."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while not set(names) <= set(self.seen):
                note = json.loads(await loop.sock_recv(self.notes, 65536))
                self.seen[note["pod"]] = note
        return {name: self.seen[name] for name in names}

    def variables(self, **more):
        return {**os.environ, "STANDIN_FOLDER": str(self.folder), **more}


@pytest.fixture
def stage():
    # The path of a unix socket is short; pytest's folders may be too deep.
    with tempfile.TemporaryDirectory(prefix="stage-") as folder:
        stage = Stage(Path(folder))
        yield stage
        stage.notes.close()


@pytest.fixture
def make_job():
    def make(*, replicas=2, **spec):
        spec = {
            "entrypoint": {"function": "train:train"},
            "batch": {"global": 8, "micro": 2},
            "workers": {"replicas": replicas},
            **spec,
        }
        return DistributedTrainingJob(metadata=Metadata(name="job"), spec=spec)

    return make


@pytest.fixture
async def make_session(stage, tmp_path, make_job):
    sessions = []

    async def make(*, variables=None, metrics_port=None, run_dir=tmp_path / "run", **spec):
        session = LocalSession(
            make_job(**spec),
            run_dir=run_dir,
            python_path=[tmp_path],
            variables=stage.variables(**(variables or {})),
            metrics_port=metrics_port,
            python=str(stage.python),
        )
        sessions.append(session)
        await session.start()
        return session

    yield make
    for session in sessions:
        await session.close()
        assert list(find({ENV_SESSION: session.session_id})) == []


@pytest.fixture
def wait_for_end():
    """Waits, with a limit, until all these processes have ended; returns those that have not."""

    def wait(descriptors, limit=timedelta(seconds=30)):
        poll = select.poll()
        left = set(descriptors)
        for descriptor in descriptors:
            poll.register(descriptor, select.POLLIN)
        while left and (events := poll.poll(limit.total_seconds() * 1000)):
            for descriptor, _ in events:
                poll.unregister(descriptor)
                left.discard(descriptor)
        return left

    return wait


@pytest.fixture
def signal_pod():
    def send(note, number=signal.SIGUSR1):
        os.kill(note["pid"], number)

    return send


@pytest.fixture
def patience():
    return lambda: asyncio.timeout(PATIENCE)
