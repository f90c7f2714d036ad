"""What the README shows works as it stands there."""

import re
from pathlib import Path

from jobruns import OWN_NURSERY, Cli

README = Path(__file__).parents[3] / "README.md"
FILE = re.compile(r"```\w+\n# (mine/\S+)\n(.*?)```", re.DOTALL)


def test_the_job_of_one_s_own_trains(cli: Cli, tmp_path: Path) -> None:
    files = dict(FILE.findall(README.read_text()))
    assert set(files) == {"mine/train.py", "mine/job.yaml"}
    (tmp_path / "mine").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    run = cli.run(tmp_path / "mine" / "job.yaml", **OWN_NURSERY)
    assert run.process.returncode == 0, run.output + run.errors
    [log] = [file.read_text() for file in run.run_dir.glob("logs/*-worker-0.log")]
    [loss] = re.findall(r"loss over all samples: (\S+)", log)
    assert float(loss) < 0.2, "ln 2 is 0.69"
    assert len(run.steps()) == 10 * 4096 // 64
