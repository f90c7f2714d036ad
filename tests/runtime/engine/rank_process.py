"""A rank as the agent starts it; run with the globals `settings`, `line` and `environment`."""

import os
import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from reknit.protocol.settings import JobSettings
from reknit.rank.main import run

os.environ.update(environment)  # type: ignore[name-defined]  # noqa: F821
torch.set_num_threads(1)
warnings.simplefilter("error")
sys.exit(run(JobSettings.model_validate_json(settings), line))  # type: ignore[name-defined]  # noqa: F821
