"""Every sample exactly once per epoch, whatever happens."""

import signal
from collections import Counter
from pathlib import Path

from jobruns import Cli
from reknit.data.ledger import committed

NUM_SAMPLES = 96
EPOCHS = 3
STOPPED = 130


def test_every_sample_once_per_epoch_with_kills_and_two_changes_of_world_size(
    cli: Cli, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    run_dir = tmp_path / "run"
    stages = [(4, 10, 3, 6), (3, 22, 1, 16), (2, 30, 0, 29)]
    for number, (num_ranks, wait_step, victim, step) in enumerate(stages):
        gate = tmp_path / f"gate-{number}"
        config = {
            "steps": None,
            "epochs": EPOCHS,
            "num_samples": NUM_SAMPLES,
            "wait_for": str(gate),
            "wait_step": wait_step,
            "fail_rank": victim,
            "fail_step": step,
            "fail_once": str(tmp_path / f"killed-{number}"),
            "is_killed": True,
        }
        manifest = cli.manifest(
            entrypoint={"function": "tasks:train", "config": config},
            batch={"global": 8, "micro": 2},
            checkpoint={"everySteps": 4},
            workers={"replicas": 1, "processesPerReplica": num_ranks},
        )
        resume = ["--resume"] if number else []
        run = cli.start(manifest, *resume, run_dir=run_dir, REKNIT_LEDGER=str(ledger))
        run.wait_for_events("RankExited", number + 1)
        run.wait_for_events("Resumed", 2 * number + 2)
        run.wait_for_step(wait_step)
        last = number == len(stages) - 1
        if not last:
            run.process.send_signal(signal.SIGINT)
        gate.touch()
        status = run.finish()
        assert status == (0 if last else STOPPED), run.output + run.errors
    history = committed(ledger)
    assert sorted(history) == list(range(1, EPOCHS * NUM_SAMPLES // 8 + 1))
    per_epoch = NUM_SAMPLES // 8
    for epoch in range(EPOCHS):
        versions = range(epoch * per_epoch + 1, (epoch + 1) * per_epoch + 1)
        used = Counter(sample for version in versions for sample in history[version])
        assert used == Counter(range(NUM_SAMPLES))
    assert [event["rank"] for event in run.events("RankExited")] == [3, 1, 0]
