import asyncio
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest

from reknit.agent import warmup
from reknit.agent.events import Ended
from reknit.agent.launcher import Launcher
from reknit.agent.warmup import check_function, check_program, report
from reknit.protocol.agents import Begin, Exited, FromSlot, Heartbeat
from reknit.protocol.outcome import ExitClass
from reknit.protocol.settings import JobSettings

StartAgent: TypeAlias = Callable[..., Any]
RunGeneration: TypeAlias = Callable[..., Awaitable[Begin]]

TARGET = """
import sys


def run(settings, channel):
    channel.makefile("r").readline()
    {body}
"""


async def exit_of(coordinator: Any) -> Exited:
    exited: Exited = await coordinator.hear(Exited)
    return exited


@pytest.mark.parametrize(
    ("body", "code", "exit_class"),
    [
        ("return 7", 7, ExitClass.PROGRAM_ERROR),
        ("return 70", 70, ExitClass.INFRASTRUCTURE),
        ("sys.exit('reason')", 1, ExitClass.PROGRAM_ERROR),
        ("raise KeyError('x')", 1, ExitClass.PROGRAM_ERROR),
        ("import os; os._exit(0)", 0, ExitClass.PROGRAM_ERROR),
    ],
)
async def test_the_end_of_a_target_is_the_exit_status_of_its_process(
    coordinator: Any,
    start_agent: StartAgent,
    run_generation: RunGeneration,
    tmp_path: Path,
    body: str,
    code: int,
    exit_class: ExitClass,
) -> None:
    (tmp_path / "target.py").write_text(TARGET.format(body=body))
    agent = start_agent(target="target:run")
    await run_generation(num_ranks=1)
    exited = await exit_of(coordinator)
    assert (exited.exit.exit_code, exited.exit.exit_class) == (code, exit_class)
    if "raise" in body:
        assert "KeyError: 'x'" in agent.log


async def test_a_rank_that_succeeds_does_what_it_has_left_for_its_exit(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    (tmp_path / "target.py").write_text(
        "import atexit, os, threading\n"
        "atexit.register(print, 'not for the ranks')\n"
        "def run(settings, channel):\n"
        "    channel.makefile('r').readline()\n"
        "    atexit.register(print, 'handled')\n"
        "    threading.Thread(target=lambda: print(channel.recv(100) or 'joined')).start()\n"
        "    threading.Timer(0.05, channel.shutdown, [0]).start()\n"
        "    return 0\n"
    )
    agent = start_agent(target="target:run")
    await run_generation(num_ranks=1)
    exited = await exit_of(coordinator)
    assert exited.exit.exit_code == 0
    assert "joined\nhandled\n" in agent.log
    assert "not for the ranks" not in agent.log


async def test_ranks_write_to_the_pods_log(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    body = "sys.stdout.write('to the log\\n'); sys.stderr.write('this too\\n'); return 1"
    (tmp_path / "target.py").write_text(TARGET.format(body=body))
    agent = start_agent(target="target:run")
    await run_generation(num_ranks=1)
    await exit_of(coordinator)
    assert "to the log\n" in agent.log
    assert "this too\n" in agent.log


async def test_a_rank_sees_a_clean_process(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    body = (
        "import os, signal, threading\n"
        "    open('{path}', 'w').write(repr([\n"
        "        'REKNIT_TOKEN' in os.environ,\n"
        "        signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL,\n"
        "        threading.active_count(), os.getsid(0) == os.getpid(), len(sys.argv),\n"
        "        open('/proc/self/comm').read().strip(),\n"
        "        sorted(os.readlink(f'/proc/self/fd/{{n}}').partition(':')[0]\n"
        "               for n in os.listdir('/proc/self/fd') if int(n) > 2\n"
        "               and os.path.exists(f'/proc/self/fd/{{n}}')),\n"
        "    ]))\n"
        "    return 1"
    ).format(path=tmp_path / "seen")
    (tmp_path / "target.py").write_text(TARGET.format(body=body))
    start_agent(target="target:run")
    await run_generation(num_ranks=1)
    await exit_of(coordinator)
    seen = eval((tmp_path / "seen").read_text())
    assert seen[:6] == [False, True, 1, True, 1, "rank"]
    # Its channel and the file being written.
    assert seen[6] == [str(tmp_path / "seen"), "socket"]


async def test_a_rank_outlives_signals_that_end_what_it_has_started(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    body = (
        "import multiprocessing, os, signal, subprocess\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    ends = []\n"
        "    for number in (signal.SIGTERM, signal.SIGINT):\n"
        "        program = subprocess.Popen(['sleep', '1000'])\n"
        "        program.send_signal(number)\n"
        "        ends.append(program.wait(10))\n"
        "    ready, told = multiprocessing.Pipe()\n"
        "    fork = multiprocessing.get_context('fork')\n"
        "    def wait():\n"
        "        told.send('here')\n"
        "        signal.pause()\n"
        "    child = fork.Process(target=wait)\n"
        "    child.start()\n"
        "    ready.recv()\n"
        "    child.terminate()\n"
        "    child.join(10)\n"
        "    open('{path}', 'w').write(repr([*ends, child.exitcode]))\n"
        "    return 1"
    ).format(path=tmp_path / "ends")
    (tmp_path / "target.py").write_text(TARGET.format(body=body))
    start_agent(target="target:run")
    await run_generation(num_ranks=1)
    exited = await exit_of(coordinator)
    assert exited.exit.exit_code == 1
    assert eval((tmp_path / "ends").read_text()) == [
        -signal.SIGTERM,
        -signal.SIGINT,
        -signal.SIGTERM,
    ]


async def test_a_module_that_starts_threads_makes_processes_start_cold(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    (tmp_path / "threaded.py").write_text(
        "import threading\n"
        "forever = threading.Event()\n"
        "threading.Thread(target=forever.wait, daemon=True).start()\n"
        "from stand_in import run\n"
    )
    agent = start_agent(target="threaded:run", processes_per_worker=2)
    await run_generation()
    await coordinator.hear(Heartbeat, lambda beat: all(slot.step == 1 for slot in beat.slots))
    assert "preloading has left 2 threads; processes are started cold" in agent.log


async def test_a_module_that_kills_its_process_leaves_that_to_the_ranks(
    coordinator: Any, start_agent: StartAgent, run_generation: RunGeneration, tmp_path: Path
) -> None:
    (tmp_path / "deadly.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    start_agent(target="deadly:run")
    await run_generation(num_ranks=1)
    exited = await exit_of(coordinator)
    assert exited.exit.signal == signal.SIGSEGV
    assert coordinator.all(FromSlot) == []


async def test_a_pod_in_which_no_process_can_be_started_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    told: asyncio.Queue[Any] = asyncio.Queue()
    lines: list[str] = []
    settings = JobSettings(name="job", function="m:train")
    launcher = Launcher(settings, "stand_in:run", tell=told.put_nowait, log=lines.append)
    launcher.start()
    launcher.launch(0, "rank 0", ())
    async with asyncio.timeout(20):
        ended, ready = await told.get(), await told.get()
    launcher.close()
    assert ended == Ended(0, signal=signal.SIGKILL)
    assert ready.problem.exit_class is ExitClass.INFRASTRUCTURE
    assert lines == [
        "the forkserver has died and is replaced",
        "the process that starts all others cannot run here",
    ]


def test_a_forkserver_without_its_agent_does_not_stay() -> None:
    arguments = ["--socket", "0", "--parent", "1", "--target", "x:y"]
    done = subprocess.run(
        [sys.executable, "-m", "reknit.agent.forkserver", *arguments], check=False, timeout=30
    )
    assert done.returncode == 1


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes an importable module of this text; gives its name."""

    def write(text: str) -> str:
        (tmp_path / "user_under_test.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "user_under_test", raising=False)
        return "user_under_test"

    return write


def test_a_module_that_cannot_be_imported_shows_the_users_frames_alone(
    user_module: Callable[[str], str],
) -> None:
    module = user_module("def broken():\n    return 1 / 0\n\nbroken()\n")
    problem = check_function(JobSettings(name="job", function=f"{module}:train"))
    assert problem is not None
    assert problem.exit_class is ExitClass.PROGRAM_ERROR
    assert problem.exception == "ZeroDivisionError: division by zero"
    assert problem.traceback.count("user_under_test.py") == 2
    assert "/runtime/reknit/" not in problem.traceback
    assert "importlib" not in problem.traceback


def test_a_missing_function_is_a_matter_of_configuration(
    user_module: Callable[[str], str],
) -> None:
    module = user_module("def trains(job): ...\n")
    problem = check_function(JobSettings(name="job", function=f"{module}:train"))
    assert problem is not None
    assert problem.exit_class is ExitClass.CONFIGURATION


def test_a_fitting_configuration_is_no_problem(user_module: Callable[[str], str]) -> None:
    module = user_module("def train(job): ...\n")
    assert check_function(JobSettings(name="job", function=f"{module}:train")) is None


def test_a_program_must_exist() -> None:
    assert check_program(JobSettings(name="job", command=(sys.executable, "x.py"))) is None
    problem = check_program(JobSettings(name="job", command=("no-such-program", "x.py")))
    assert problem is not None
    assert problem.exit_class is ExitClass.CONFIGURATION
    assert "no-such-program" in problem.exception


def test_a_long_traceback_keeps_its_end() -> None:
    problem = report(ValueError("x" * 100_000))
    assert len(problem.traceback) == 16_000
    assert len(problem.exception) == 1000


@pytest.mark.parametrize(
    ("num_threads", "is_initialized", "is_bad_fork", "expected"),
    [
        (1, False, False, None),
        (3, False, False, "preloading has left 3 threads"),
        (1, True, False, "preloading has left a CUDA context"),
        (1, False, True, "preloading has asked CUDA for its devices"),
    ],
)
def test_what_bars_forking(
    monkeypatch: pytest.MonkeyPatch,
    num_threads: int,
    is_initialized: bool,
    is_bad_fork: bool,
    expected: str | None,
) -> None:
    cuda = SimpleNamespace(
        is_initialized=lambda: is_initialized, _is_in_bad_fork=lambda: is_bad_fork
    )
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    monkeypatch.setattr(warmup, "num_threads", lambda: num_threads)
    assert warmup.fork_obstacle() == expected
