"""What a run came to."""

from collections.abc import Callable
from pathlib import Path

import pytest

from reknit.protocol.outcome import Conclusion, ErrorReport, ExitClass
from reknit.protocol.status import EventRecord, Record
from reknit_operator.api.types import DistributedTrainingJob
from reknit_operator.cli.display.view import View, fold
from reknit_operator.cli.summary import ExitCode, facts, outcome

WithCondition = Callable[..., DistributedTrainingJob]


def test_success(job: DistributedTrainingJob, with_condition: WithCondition) -> None:
    end = outcome(with_condition(job, "Succeeded", "Completed"), [])
    assert (end.code, end.headline) == (ExitCode.SUCCEEDED, "tiny has succeeded")


def test_an_error_of_the_program_keeps_its_traceback(
    job: DistributedTrainingJob, with_condition: WithCondition
) -> None:
    failed = with_condition(
        job, "Failed", "ProgramError", message="ValueError: x", traceback="Traceback: x"
    )
    end = outcome(failed, [])
    assert (end.code, end.traceback) == (ExitCode.FAILED, "Traceback: x")
    assert end.headline == "tiny has failed: ValueError: x"


def test_a_traceback_that_a_pod_had_to_cut_is_whole(
    job: DistributedTrainingJob,
    with_condition: WithCondition,
    make_event: Callable[..., EventRecord],
) -> None:
    frames = "".join(f'  File "net.py", line {line}, in forward\n' for line in range(300))
    whole = f"Traceback (most recent call last):\n{frames}ValueError: x\n"
    error = ErrorReport(exception="ValueError: x", traceback=whole)
    told = Conclusion(exit_class=ExitClass.PROGRAM_ERROR, message="failed", error=error)
    words = Conclusion.model_validate_json(told.termination_message())
    assert words.error is not None and words.error.traceback not in whole
    failed = with_condition(job, "Failed", "ProgramError", traceback=words.error.traceback)
    records = [
        make_event("RankExited", 1, detail="Traceback of an earlier fault"),
        make_event("RankExited", 2, detail=whole),
        make_event("Concluded", 3, detail=whole),
        make_event("GenerationEnded", 4),
    ]
    assert outcome(failed, records).traceback == whole
    # A history that ends before, as the coordinator died.
    assert outcome(failed, records[:1]).traceback == words.error.traceback


def test_a_wrong_configuration_is_its_sentence(
    job: DistributedTrainingJob, with_condition: WithCondition
) -> None:
    sentence = "the checkpoint is of another model"
    end = outcome(with_condition(job, "Failed", "Configuration", message=sentence), [])
    assert (end.code, end.headline, end.traceback) == (ExitCode.CONFIGURATION, sentence, None)


def test_a_failure_without_words_gives_its_reason(
    job: DistributedTrainingJob, with_condition: WithCondition
) -> None:
    end = outcome(with_condition(job, "Failed", "BudgetExhausted"), [])
    assert end.headline == "tiny has failed: BudgetExhausted"


@pytest.mark.parametrize("kind", ["Suspended", "Running"])
def test_anything_else_was_stopped(
    job: DistributedTrainingJob, with_condition: WithCondition, kind: str
) -> None:
    assert outcome(with_condition(job, kind, "Stopped"), []).code == ExitCode.STOPPED
    assert outcome(job, []).code == ExitCode.STOPPED


def test_the_facts_of_a_run(records: list[Record]) -> None:
    found = dict(
        facts(
            fold(View("tiny"), records),
            seconds=20,
            run_dir=Path("runs/tiny-1"),
            report=Path("runs/tiny-1/report.html"),
            model=Path("runs/tiny-1/model.safetensors"),
        )
    )
    assert found == {
        "steps": "10 of 10 in 20 s",
        "held-out loss": "0.5 at step 10",
        "training loss": "0.4",
        "recoveries": "1 from 1 fault, the last in 2.5 s",
        "steps redone": "1",
        "checkpoint": "step 4 in runs/tiny-1/checkpoints",
        "model": "runs/tiny-1/model.safetensors",
        "report": "runs/tiny-1/report.html",
        "logs": "runs/tiny-1/logs",
    }


def test_an_empty_run_has_few_facts() -> None:
    found = dict(facts(View("tiny"), seconds=0.5, run_dir=Path("r"), report=None, model=None))
    assert found == {"steps": "0 in 500 ms", "logs": "r/logs"}


def test_a_fault_that_ended_the_job_is_no_recovery(
    make_event: Callable[..., EventRecord],
) -> None:
    view = fold(View("tiny"), [make_event("RankExited", 1)])
    found = dict(facts(view, seconds=1, run_dir=Path("r"), report=None, model=None))
    assert "recoveries" not in found


def test_a_stop_that_could_not_save_its_work_is_told(
    job: DistributedTrainingJob, with_condition: WithCondition
) -> None:
    lost = "the last checkpoint (step 9) could not be written"
    stopped = with_condition(job, "Suspended", "Suspended")
    [suspended] = stopped.status.conditions
    told = suspended.model_copy(update={"message": lost})
    status = stopped.status.model_copy(update={"conditions": (told,)})
    end = outcome(stopped.model_copy(update={"status": status}), [])
    assert (end.code, end.headline) == (ExitCode.STOPPED, f"tiny was stopped, but {lost}")
