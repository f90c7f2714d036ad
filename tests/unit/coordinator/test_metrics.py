import re

from prometheus_client.parser import text_string_to_metric_families

from reknit.coordinator.metrics import Metrics
from reknit.protocol.ranks import Checkpointed, Evaluated, Resumed


def scraped(job) -> dict[str, float]:
    """Values by name and labels, after the records of the job were counted."""
    metrics = Metrics("gpt", "team", lambda: (job.state, job.now))
    for record in job.records:
        metrics.count(record)
    families = text_string_to_metric_families(metrics.text().decode())
    return {
        sample.name + "".join(f"/{value}" for value in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def lived(drive):
    """A job with two steps, a fault, and a redone step."""
    job = drive()
    job.begin()
    figures = {
        "samples": 8,
        "total_steps": 10,
        "metrics": {"loss": 2.5, "grad_norm": 0.5, "learning_rate": 0.01, "mine": 1.0},
        "seconds": {"total": 0.5, "data": 0.1, "forward": 0.2},
        "memory_bytes": 1000,
    }
    for step in (1, 2):
        job.now += 1
        job.step(step, **figures)
    job.say(0, Checkpointed(step=1, location="x", seconds=0.3))
    job.say(0, Checkpointed(step=2, location="x", error="disk full"))
    job.say(0, Evaluated(step=2, metrics={"loss": 2.0}))
    job.exit(1, signal=9)
    job.now += 0.2
    job.stop()
    job.say(0, Resumed(generation=job.generation, step=1, source="x"))
    for step in (2, 3):
        job.now += 1
        job.step(step, **figures)
    return job


def test_the_figures_of_a_job_with_a_fault(drive) -> None:
    values = scraped(lived(drive))
    expected = {
        "reknit_job_info/gpt/team": 1,
        "reknit_step": 3,
        "reknit_total_steps": 10,
        "reknit_loss": 2.5,
        "reknit_gradient_norm": 0.5,
        "reknit_learning_rate": 0.01,
        "reknit_samples_per_second": 8,
        "reknit_samples_total": 32,
        "reknit_step_seconds_count": 4,
        "reknit_step_phase_seconds_total/forward": 0.8,
        "reknit_rank_memory_bytes/1": 1000,
        "reknit_generation": 2,
        "reknit_generations_total": 2,
        "reknit_ranks/Step": 2,
        "reknit_recoveries_total": 1,
        "reknit_recovery_seconds_count": 1,
        "reknit_recovery_phase_seconds_count/free": 1,
        "reknit_recovery_phase_seconds_sum/free": 0.2,
        "reknit_recovery_phase_seconds_count/detect": 0,
        "reknit_recoveries_finished_total/checkpoint": 1,
        "reknit_recoveries_finished_total/memory": 0,
        "reknit_lost_steps_total": 1,
        "reknit_redone_steps_total": 1,
        "reknit_checkpoint_seconds_count": 1,
        "reknit_checkpoint_failures_total": 1,
        "reknit_checkpoint_step": 1,
        "reknit_failures_total/Killed": 1,
        "reknit_failures_total/ProgramError": 0,
        "reknit_evaluations_total": 1,
        "reknit_membership_phase/Running": 1,
        "reknit_membership_phase/Waiting": 0,
    }
    assert {name: round(values[name], 6) for name in expected} == expected
    assert 0 < values["reknit_effective_training_time_ratio"] < 1


def test_names_have_the_prefix_and_figures_of_the_user_make_no_series(drive) -> None:
    values = scraped(lived(drive))
    assert all(re.fullmatch(r"reknit_[a-z_]+(/.*)?", name) for name in values)
    assert not [name for name in values if "mine" in name]


def test_what_is_not_known_is_not_shown(drive) -> None:
    values = scraped(drive())
    assert "reknit_loss" not in values
    assert "reknit_generation" not in values
    assert values["reknit_agents_expected"] == 2
