"""Federated data: which clients take part in which round, and with which of their samples.

Samples stay with their client, and a client with its rank. Both choices are pure functions of the
seed: a round that is redone, or taken in another world, has the same clients and samples.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from reknit.data.drawing import Drawing, DrawingStopped, MicroBatch
from reknit.data.loader import StepBatch
from reknit.data.order import DataOrder
from reknit.data.prefetch import Prefetcher
from reknit.data.seeds import derive_seed, micro_batch_seed
from reknit.errors import ConfigurationError
from reknit.protocol.settings import CommunicationSettings


def taking_part(clients: Sequence[int], per_round: int, seed: int, step: int) -> tuple[int, ...]:
    """The clients of one round, in their order; each is as likely as any other."""
    drawn = sorted(clients, key=lambda client: derive_seed("client", seed, step, client))
    return tuple(sorted(drawn[:per_round]))


@dataclass(frozen=True, slots=True)
class Clients:
    """Who has which samples.

    Raises:
        ConfigurationError: the samples are not all given to clients, or these are too few.
    """

    owners: Sequence[int]
    """The client of each sample, from 0 on."""
    num_samples: int
    per_round: int
    samples: dict[int, list[int]] = field(default_factory=dict, init=False)
    """By client."""

    def __post_init__(self) -> None:
        if len(self.owners) != self.num_samples:
            raise ConfigurationError(
                f"job.batches: clients has {len(self.owners)} entries for {self.num_samples} "
                "samples, give the client of each"
            )
        for sample, owner in enumerate(self.owners):
            self.samples.setdefault(int(owner), []).append(sample)
        if len(self.samples) < self.per_round:
            raise ConfigurationError(
                f"job.batches: there are {len(self.samples)} clients with samples, of which "
                f"spec.communication.rounds.clientsPerRound wants {self.per_round}"
            )


def who_takes_part(
    communication: CommunicationSettings, owners: Sequence[int] | None, num_samples: int
) -> Clients | None:
    """The clients of a job under federated averaging; None for any other.

    Raises:
        ConfigurationError: they are given where there is no federated averaging, or the reverse.
    """
    rounds = communication.rounds
    per_round = None if rounds is None else rounds.clients_per_round
    if (per_round is None) != (owners is None):
        raise ConfigurationError(
            "job.batches: clients and spec.communication.rounds.clientsPerRound go together, give "
            "both or neither"
        )
    return None if owners is None or per_round is None else Clients(owners, num_samples, per_round)


class FederatedLoader(Prefetcher[StepBatch]):
    """Iterates what one rank's clients train on, in the rounds from `start_step` to `stop_step`.

    A client that takes part goes through as many samples as any other, further in its own endless
    order each time. The weight of its micro-batches adds up to its share of the samples that the
    round's clients have. All ranks have equally many micro-batches: empty ones of weight 0 fill up.

    Args:
        passes: micro-batches of a client in a round.
        micro: samples in each.
    """

    def __init__(
        self,
        drawing: Drawing,
        clients: Clients,
        *,
        passes: int,
        micro: int,
        rank: int,
        num_ranks: int,
        seed: int,
        shuffle: bool,
        start_step: int,
        stop_step: int,
        prefetch: int = 2,
    ) -> None:
        source = _Source(drawing, clients, passes, micro, rank, num_ranks, seed, shuffle)
        super().__init__(
            partial(source.batches, start_step, stop_step), depth=prefetch, name="reknit-loader"
        )


@dataclass(frozen=True, slots=True)
class _Source:
    drawing: Drawing
    clients: Clients
    passes: int
    micro: int
    rank: int
    num_ranks: int
    seed: int
    shuffle: bool

    def batches(self, start: int, stop: int, stopped: threading.Event) -> Iterator[StepBatch]:
        before: Counter[int] = Counter()
        """In how many earlier rounds each client has taken part."""
        names = sorted(self.clients.samples)
        for step in range(stop):
            chosen = taking_part(names, self.clients.per_round, self.seed, step)
            if step >= start:
                try:
                    yield StepBatch(step, tuple(self._drawn(step, chosen, before, stopped)))
                except DrawingStopped:
                    return
            before.update(chosen)

    def _drawn(
        self, step: int, chosen: Sequence[int], before: Counter[int], stopped: threading.Event
    ) -> Iterator[MicroBatch]:
        total = sum(len(self.clients.samples[client]) for client in chosen)
        at_home = Counter(client % self.num_ranks for client in chosen)
        for place, client in enumerate(chosen):
            if client % self.num_ranks != self.rank:
                continue
            own = self.clients.samples[client]
            order_seed = derive_seed("client-order", self.seed, client)
            order = DataOrder(len(own), order_seed, self.shuffle)
            first = before[client] * self.passes * self.micro
            for number in range(self.passes):
                index = place * self.passes + number
                start = first + number * self.micro
                ids = tuple(own[at] for at in order.samples(range(start, start + self.micro)))
                seed = micro_batch_seed(self.seed, step, index, "transform")
                data = self.drawing.draw(ids, seed, stopped)
                yield MicroBatch(index, data, ids, len(own) / total / self.passes)
        num_missing = max(at_home.values()) - at_home[self.rank]
        yield from [MicroBatch(None, None, (), 0.0)] * (num_missing * self.passes)
