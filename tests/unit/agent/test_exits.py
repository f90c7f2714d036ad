import pytest

from reknit.agent.exits import classify, describe
from reknit.protocol.outcome import ErrorReport, ExitClass, ProcessExit

ERROR = ErrorReport(exception="ValueError: x", traceback="Traceback ...\nValueError: x")
WRONG = ErrorReport(exception="no x", traceback="no x", exit_class=ExitClass.CONFIGURATION)


def ended(**fields: object) -> ProcessExit | None:
    values: dict[str, object] = {
        "exit_code": None,
        "signal": None,
        "error": None,
        "finished": False,
        "is_command": False,
        "out_of_memory": False,
        "leaving": False,
    }
    return classify(**{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exit_code": 1, "error": ERROR}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 2, "error": WRONG}, ExitClass.CONFIGURATION),
        ({"signal": 9, "error": ERROR}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 0, "error": ERROR}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 0}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 1}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 137}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 70}, ExitClass.INFRASTRUCTURE),
        ({"signal": 9}, ExitClass.KILLED),
        ({"signal": 9, "finished": True}, ExitClass.KILLED),
        ({"signal": 9, "out_of_memory": True}, ExitClass.OUT_OF_MEMORY),
        ({"signal": 11, "out_of_memory": True}, ExitClass.KILLED),
        ({"signal": 6}, ExitClass.KILLED),
        ({"signal": 15}, ExitClass.KILLED),
        ({"signal": 15, "leaving": True}, ExitClass.PREEMPTED),
        ({"exit_code": 3, "is_command": True}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 70, "is_command": True}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 127, "is_command": True}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 255, "is_command": True}, ExitClass.PROGRAM_ERROR),
        ({"exit_code": 139, "is_command": True}, ExitClass.KILLED),
        (
            {"exit_code": 137, "is_command": True, "out_of_memory": True},
            ExitClass.OUT_OF_MEMORY,
        ),
        ({"exit_code": 143, "is_command": True, "leaving": True}, ExitClass.PREEMPTED),
        ({"exit_code": 143, "is_command": True}, ExitClass.KILLED),
    ],
)
def test_classes(fields: dict[str, object], expected: ExitClass) -> None:
    exit_ = ended(**fields)
    assert exit_ is not None
    assert exit_.exit_class is expected
    assert exit_.exit_code == fields.get("exit_code")
    assert exit_.signal == fields.get("signal")


@pytest.mark.parametrize("fields", [{"finished": True}, {"is_command": True}])
def test_regular_ends_are_no_faults(fields: dict[str, object]) -> None:
    assert ended(exit_code=0, **fields) is None


def test_a_silent_exit_is_put_into_words() -> None:
    early, failed = ended(exit_code=0), ended(exit_code=4)
    assert early is not None
    assert failed is not None
    assert describe(early) == ("the process ended with exit status 0 before training had finished")
    assert describe(failed) == "the process ended with exit status 4"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"signal": 11}, "ended by SIGSEGV"),
        ({"signal": 9, "out_of_memory": True}, "ended by SIGKILL, out of memory"),
        ({"signal": 40}, "ended by signal 40"),
        ({"exit_code": 70}, "exit status 70"),
        ({"exit_code": 1, "error": ERROR}, "ValueError: x"),
    ],
)
def test_descriptions(fields: dict[str, object], text: str) -> None:
    exit_ = ended(**fields)
    assert exit_ is not None
    assert describe(exit_) == text
