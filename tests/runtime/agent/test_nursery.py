"""Processes that a nursery gives out: whose they are, and when they end."""

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pytest

from reknit.agent.borrowing import Borrowed, Program, borrow
from reknit.agent.nursery import unlike
from reknit.protocol.settings import ENV_JOB, BatchSettings, JobSettings
from reknit_operator.cli.dryrun import environment
from reknit_operator.local.nursery import Nursery

Start: TypeAlias = Callable[[str], Mapping[str, str]]


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    with Nursery() as started:
        yield started


@pytest.fixture
def start(nursery: Nursery, tmp_path: Path) -> Start:
    """start(source): a nursery with a user's module of this text; the environment it has."""

    def start(source: str) -> Mapping[str, str]:
        (tmp_path / "raised_here.py").write_text(source)
        # Its configuration is refused, and so torch is not imported.
        settings = JobSettings(
            name="job",
            function="raised_here:train",
            batch=BatchSettings(global_batch=2, micro=1),
            config={"unknown": 1},
        )
        variables = environment(settings, tmp_path, os.environ)
        nursery.start(variables)
        assert nursery.is_up()
        return variables

    return start


def order(nursery: Nursery, variables: Mapping[str, str], agent: socket.socket) -> Borrowed | None:
    return borrow(
        str(nursery.socket),
        Program.FORKSERVER,
        ["--target", "reknit.rank.main:run", "--lean"],
        variables,
        descriptors=[1, 2, agent.fileno()],
    )


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_a_forkserver_ends_with_its_agent(nursery, start, pair) -> None:
    ours, theirs = pair
    process = order(nursery, start("def train(job): ..."), theirs)
    theirs.close()
    assert b'"hello"' in ours.recv(1 << 16)
    ours.close()
    assert process.wait() == process.wait() == 0


def test_a_killed_forkserver_is_told_as_such(nursery, start, pair) -> None:
    process = order(nursery, start("def train(job): ..."), pair[1])
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.kill()


def test_the_end_of_the_nursery_ends_no_forkserver(nursery, start, pair) -> None:
    ours, theirs = pair
    process = order(nursery, start("def train(job): ..."), theirs)
    theirs.close()
    assert b'"hello"' in ours.recv(1 << 16)
    nursery.__exit__()
    os.kill(process.pid, 0)
    ours.close()
    assert process.wait() == -signal.SIGKILL, "nobody has told its status"


def test_a_forkserver_ends_with_whoever_asked_for_it(nursery, start, pair) -> None:
    ours, theirs = pair
    process = order(nursery, start("def train(job): ..."), theirs)
    theirs.close()
    assert b'"hello"' in ours.recv(1 << 16)
    descriptor = os.pidfd_open(process.pid)
    process.connection.close()
    assert select.select([descriptor], [], [], 30)[0]
    os.close(descriptor)


def test_no_process_is_given_out_after_imports_that_no_fork_survives(nursery, start, pair) -> None:
    threads = "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True)"
    variables = start(threads + ".start()\ndef train(job): ...")
    assert order(nursery, variables, pair[1]) is None


def test_no_process_is_given_out_in_another_environment(nursery, start, pair) -> None:
    variables = start("def train(job): ...")
    assert order(nursery, {**variables, "OMP_NUM_THREADS": "7"}, pair[1]) is None
    process = order(nursery, {**variables, "REKNIT_RANK": "7"}, pair[1])
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_nobody_answers_where_no_nursery_is(tmp_path, pair) -> None:
    nowhere = Nursery()
    with nowhere:
        assert order(nowhere, {}, pair[1]) is None


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, None),
        ({ENV_JOB: "other", "PWD": "/", "GLOO_SOCKET_IFNAME": "lo"}, None),
        ({"OMP_NUM_THREADS": "2"}, "OMP_NUM_THREADS was another one when modules were imported"),
    ],
)
def test_which_variables_make_a_difference(asked: dict[str, str], found: str | None) -> None:
    assert unlike(asked, {ENV_JOB: "own", "PWD": "/there"}) == found
