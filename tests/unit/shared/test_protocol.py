import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from reknit.protocol.agents import FROM_AGENT, TO_AGENT, Begin, FromSlot, Place, Welcome
from reknit.protocol.base import Endpoint, Generation
from reknit.protocol.outcome import (
    MAX_TERMINATION_BYTES,
    Conclusion,
    ErrorReport,
    ExitClass,
    sendable,
)
from reknit.protocol.ranks import StepDone

GENERATION = Generation(incarnation=2, counter=7)


def test_a_message_survives_the_wire() -> None:
    begin = Begin(
        generation=GENERATION,
        world_size=1,
        store=Endpoint(host="127.0.0.1", port=1234),
        places=(Place(rank=0, agent="job-worker-0", slot=0),),
    )
    assert TO_AGENT.validate_json(begin.model_dump_json()) == begin


def test_what_a_rank_said_is_passed_on_inside_the_agents_message() -> None:
    said = FromSlot(rank=1, message=StepDone(generation=GENERATION, step=4, metrics={"loss": 2.5}))
    assert FROM_AGENT.validate_json(said.model_dump_json()) == said


def test_what_a_later_version_has_added_is_left_out() -> None:
    welcome = Welcome(incarnation=3)
    later = json.loads(welcome.model_dump_json()) | {"surprise": {"nested": 1}}
    assert TO_AGENT.validate_json(json.dumps(later)) == welcome


def test_a_message_that_lacks_what_it_means_is_refused() -> None:
    with pytest.raises(ValidationError):
        TO_AGENT.validate_json('{"kind": "drain", "generation": null}')


def test_generations_are_ordered_by_incarnation_first() -> None:
    keys = [Generation(incarnation=i, counter=c).key() for i, c in [(1, 0), (1, 9), (2, 0), (2, 1)]]
    assert keys == sorted(keys)
    assert str(GENERATION) == "2.7"


@pytest.mark.parametrize("num_lines", [0, 50, 80, 120, 400, 100_000])
@pytest.mark.parametrize("character", ["f", "\u00e9", "\x1b"])
def test_a_termination_message_fits_and_keeps_the_end_of_the_traceback(
    num_lines: int, character: str
) -> None:
    traceback = "\n".join(f'  File "x.py", line {n}, in {character}' for n in range(num_lines))
    conclusion = Conclusion(
        exit_class=ExitClass.PROGRAM_ERROR,
        message="ValueError: " + "x" * 600,
        error=ErrorReport(
            exception="ValueError: " + "x" * 600, traceback=traceback + "\nValueError: x"
        ),
    )
    text = conclusion.termination_message()
    assert len(text.encode()) <= MAX_TERMINATION_BYTES
    read = Conclusion.model_validate_json(text)
    assert read.exit_class is ExitClass.PROGRAM_ERROR
    assert read.error is not None
    assert read.error.traceback.endswith("\nValueError: x")


def test_a_long_message_without_traceback_fits_too() -> None:
    conclusion = Conclusion(exit_class=ExitClass.INFRASTRUCTURE, message="x" * 10_000)
    assert len(conclusion.termination_message().encode()) <= MAX_TERMINATION_BYTES


def test_importing_the_package_and_its_protocol_loads_no_torch() -> None:
    code = (
        "import sys, reknit, reknit.layout, reknit.protocol.agents, reknit.protocol.status;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_text_that_is_no_utf8_can_still_be_sent() -> None:
    text = "no such file: " + b"caf\xe9".decode("utf-8", "surrogateescape")
    report = ErrorReport(exception=sendable(text, 1000), traceback=sendable("x" * 50, 20))
    read = ErrorReport.model_validate_json(report.model_dump_json())
    assert read.exception == "no such file: caf?"
    assert len(read.traceback) == 20
