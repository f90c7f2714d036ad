"""The training that the tests run: a small model, whose gradient follows from worker and clock."""

from hashlib import sha256

import torch
from torch import nn
from torch.nn.functional import mse_loss

from reknit.parameter_server.binding import Binding, specs_of
from reknit.parameter_server.plan import Plan, plan_ranges
from reknit.parameter_server.table import Consistency, Mode
from reknit.parameter_server.tensors import DENSE, RangeTensors

TOKEN = "a-token"
NUM_RANGES = 2
NUM_WORKERS = 3
NUM_ROWS = 40
MAX_FRAME_BYTES = 1 << 24
MODES = {
    "synchronous": Mode(Consistency.SYNCHRONOUS),
    "asynchronous": Mode(Consistency.ASYNCHRONOUS),
    "bounded": Mode(Consistency.STALE_SYNCHRONOUS, max_staleness=2),
}


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.table = nn.Embedding(NUM_ROWS, 8, sparse=True)
        self.body = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.body(self.table(ids).mean(1))
        return found


def make_optimizer(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-2)


def make_tensors(number: int, mode: Mode, *, initial: bool) -> RangeTensors:
    """One range's tensors, with the model's first values or with none."""
    model = Model()
    plan: Plan = plan_ranges(specs_of(model), NUM_RANGES)
    tensors = RangeTensors(plan, number, make_optimizer, keeps_previous=mode.is_synchronous)
    if initial:
        named = dict(model.named_parameters())
        tensors.read(lambda name, span: named[name].detach().view(-1)[span.start : span.stop])
    return tensors


def batch(worker: int, clock: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1000 * worker + clock)
    ids = torch.randint(NUM_ROWS, (6, 3), generator=generator)
    return ids, torch.randn(6, 4, generator=generator)


def compute(model: Model, worker: int, clock: int) -> None:
    """Leaves this worker's share of the gradient in the model."""
    ids, target = batch(worker, clock)
    model.zero_grad()
    (mse_loss(model(ids), target) / NUM_WORKERS).backward()


def digest(weights: list[dict[str, torch.Tensor]]) -> str:
    """Of the bits of all ranges."""
    found = sha256()
    for part in weights:
        for name in sorted(part):
            found.update(part[name].contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def everything(binding: Binding) -> list[dict[str, torch.Tensor]]:
    """A wish for all weights."""
    return [dict(wish) for wish in binding.wishes({"table.weight": torch.arange(NUM_ROWS)})]


def plain(num_steps: int) -> str:
    """The digest after a synchronous run in one process, without servers."""
    model, mode = Model(), MODES["synchronous"]
    binding = Binding(model, NUM_RANGES)
    parts = [make_tensors(number, mode, initial=True) for number in range(NUM_RANGES)]
    wishes = everything(binding)
    for clock in range(num_steps):
        weights = [p.weights(w, previous=False) for p, w in zip(parts, wishes, strict=True)]
        binding.install(wishes, weights)
        pushes = []
        for worker in range(NUM_WORKERS):
            compute(model, worker, clock)
            pushes.append(binding.gradients())
        for number, part in enumerate(parts):
            part.apply([contents[number] for contents in pushes])
    return digest([p.weights(w, previous=False) for p, w in zip(parts, wishes, strict=True)])


__all__ = ["DENSE", "MODES", "TOKEN", "Model", "batch", "compute", "digest", "plain"]
