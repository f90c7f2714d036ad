"""What communicates less, computed again by one plain process with all ranks' gradients in it."""

from functools import partial

import torch
from engine_cases import Case, drawn, recipe
from engine_models import TASKS
from torch import nn

from reknit.comm.group import RankGroup
from reknit.data.clients import Clients, FederatedLoader
from reknit.data.drawing import Drawing
from reknit.data.order import DataOrder
from reknit.data.seeds import derive_seed, micro_batch_seed
from reknit.strategies.choose import make_strategy
from reknit.trainer.gate import Vote
from reknit.trainer.step import Stepper
from reknit.trainer.timing import Stopwatch


def batch_of(case: Case, step: int, index: int) -> list[torch.Tensor]:
    """The samples of one micro-batch."""
    data = TASKS[case.model].data()
    first = step * case.global_batch + index * case.plan.micro
    rows = DataOrder(len(data), 0).samples(range(first, first + case.plan.micro))
    return [torch.stack(part) for part in zip(*(data[row] for row in rows), strict=True)]


class Simulation:
    """The model of every rank in one process."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.task, self.made = TASKS[case.model], recipe(case)
        torch.manual_seed(0)
        self.model = self.task.model()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]

    def loss(self, model: nn.Module, step: int, index: int) -> torch.Tensor:
        torch.manual_seed(micro_batch_seed(0, step, index))
        return self.made.loss(model, batch_of(self.case, step, index))


def simulated_rounds(case: Case) -> list[float]:
    """The mean loss of each round, by the algorithm as its paper states it."""
    rounds = case.communication.rounds
    assert rounds is not None
    simulation = Simulation(case)
    trained = simulation.trained
    outer = [p.detach().clone() for p in trained]
    velocity = [torch.zeros_like(p) for p in trained]
    optimizers = [simulation.made.optimizer(trained) for _ in range(case.num_ranks)]
    each = case.plan.num_steps // rounds.local_steps
    means = []
    for step in range(case.steps):
        moved = [torch.zeros_like(p) for p in trained]
        total = 0.0
        for rank, optimizer in enumerate(optimizers):
            for p, start in zip(trained, outer, strict=True):
                p.data.copy_(start)
            own = case.plan.micro_batches(rank)
            for local in range(rounds.local_steps):
                losses = [
                    simulation.loss(simulation.model, step, index)
                    for index in own[local * each : (local + 1) * each]
                ]
                mean = torch.stack(losses).mean()
                mean.backward()
                if case.clip is not None:
                    nn.utils.clip_grad_norm_(trained, case.clip)
                optimizer.step()
                optimizer.zero_grad()
                total += float(mean.detach())
            for sum_, p, start in zip(moved, trained, outer, strict=True):
                sum_ += (start - p.detach()) / case.num_ranks
        for index, gradient in enumerate(moved):
            velocity[index] = rounds.outer_momentum * velocity[index] + gradient
            nesterov = gradient + rounds.outer_momentum * velocity[index]
            outer[index] = outer[index] - rounds.outer_learning_rate * nesterov
        means.append(total / (case.num_ranks * rounds.local_steps))
    return means


def simulated_compression(case: Case, dtype: torch.dtype) -> list[float]:
    """The loss of each step when two ranks' gradients are added up in `dtype`."""
    assert case.num_ranks == 2
    simulation = Simulation(case)
    optimizer = simulation.made.optimizer(simulation.trained)
    losses = []
    for step in range(case.steps):
        gradients = []
        total = 0.0
        for rank in range(2):
            for index in case.plan.micro_batches(rank):
                weight = case.plan.micro / case.global_batch
                loss = simulation.loss(simulation.model, step, index)
                (loss * weight * 2).backward()
                total += float(loss.detach()) * weight
            gradients.append([p.grad for p in simulation.trained])
            optimizer.zero_grad()
        for p, one, other in zip(simulation.trained, *gradients, strict=True):
            p.grad = ((one / 2).to(dtype) + (other / 2).to(dtype)).float()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def simulated_power_sgd(case: Case) -> list[float]:
    """The loss of each step of two ranks, with bases from a QR decomposition.

    The product of the factors does not depend on which basis of a space is taken.
    """
    assert case.num_ranks == 2
    rank = case.communication.power_sgd_rank
    simulation = Simulation(case)
    optimizer = simulation.made.optimizer(simulation.trained)
    left_out = [[torch.zeros_like(p) for p in simulation.trained] for _ in range(2)]
    columns = {}
    for number, p in enumerate(simulation.trained):
        width = p[0].numel()
        if p.numel() > rank * (p.shape[0] + width):
            generator = torch.Generator().manual_seed(derive_seed("power-sgd", 0, number))
            columns[number] = torch.randn(width, rank, generator=generator)
    assert columns
    losses = []
    for step in range(case.steps):
        total = 0.0
        wanted = []
        for worker in range(2):
            for index in case.plan.micro_batches(worker):
                weight = case.plan.micro / case.global_batch
                loss = simulation.loss(simulation.model, step, index)
                (loss * weight * 2).backward()
                total += float(loss.detach()) * weight
            wanted.append(
                [p.grad + e for p, e in zip(simulation.trained, left_out[worker], strict=True)]
            )
            optimizer.zero_grad()
        for number, p in enumerate(simulation.trained):
            pair = [wanted[worker][number] for worker in range(2)]
            mean = (pair[0] + pair[1]) / 2
            if number in columns:
                matrix = mean.reshape(mean.shape[0], -1)
                basis, _ = torch.linalg.qr(matrix @ columns[number])
                columns[number] = matrix.T @ basis
                mean = (basis @ columns[number].T).view(p.shape)
                for worker in range(2):
                    left_out[worker][number] = pair[worker] - mean
            p.grad = mean
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def train_clients(group: RankGroup, case: Case, owners: list[int]) -> list[tuple[float, list[int]]]:
    """Loss and this rank's samples of each round of federated averaging."""
    rounds = case.communication.rounds
    assert rounds is not None
    assert rounds.clients_per_round is not None
    strategy = make_strategy(recipe(case), case.settings, group, case.plan)
    stepper = Stepper(
        strategy,
        recipe(case),
        group,
        case.plan,
        seed=0,
        precision=case.precision,
        policy=case.policy,
    )
    data = TASKS[case.model].data()
    loader = FederatedLoader(
        Drawing(data, None, None),
        Clients(owners, len(data), rounds.clients_per_round),
        passes=rounds.local_steps,
        micro=case.plan.micro,
        rank=group.rank,
        num_ranks=group.world_size,
        seed=0,
        shuffle=True,
        start_step=0,
        stop_step=case.steps,
    )
    with loader:
        return [
            (stepper.step(partial(drawn, batch), Vote, Stopwatch()).loss, list(batch.sample_ids))
            for batch in loader
        ]


def simulated_clients(case: Case, taking_part: list[dict[int, list[list[int]]]]) -> list[float]:
    """The loss of each round of federated averaging with one micro-batch a local step.

    Args:
        taking_part: for each round, by client, its number of samples' owners and micro-batches:
            the sample numbers of each local step, after the number of samples that it owns.
    """
    simulation = Simulation(case)
    trained, data = simulation.trained, simulation.task.data()
    weights = [p.detach().clone() for p in trained]
    losses = []
    for clients in taking_part:
        total = sum(owned for (owned,), *_ in clients.values())
        mean = [torch.zeros_like(p) for p in trained]
        loss_of_round = 0.0
        for (owned,), *micro_batches in clients.values():
            for p, start in zip(trained, weights, strict=True):
                p.data.copy_(start)
            optimizer = simulation.made.optimizer(trained)
            for rows in micro_batches:
                batch = [torch.stack(part) for part in zip(*(data[r] for r in rows), strict=True)]
                loss = simulation.made.loss(simulation.model, batch)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                loss_of_round += float(loss.detach()) * owned / total / len(micro_batches)
            for sum_, p in zip(mean, trained, strict=True):
                sum_ += p.detach() * (owned / total)
        weights = mean
        losses.append(loss_of_round)
    return losses
