"""One rank's training, from generation to generation."""

import os
import time
from pathlib import Path

from reknit.checkpoint.reader import newest, open_checkpoint
from reknit.checkpoint.writer import Checkpointer
from reknit.comm.group import RankGroup
from reknit.data.hashes import WeightHashes
from reknit.data.ledger import Ledger
from reknit.errors import RewoundError
from reknit.job import Loss
from reknit.layout import BatchPlan
from reknit.numbers.verdict import Verdict
from reknit.protocol.base import Json
from reknit.protocol.ranks import MEMORY, Phase, Resumed, WrongNumbers
from reknit.protocol.settings import ENV_LEDGER, JobSettings
from reknit.rank.board import Board, Moment
from reknit.state.agreement import Agreement, Report, agree
from reknit.state.description import LocalState
from reknit.state.placement import copies_needed, failure_domains, holders, wards
from reknit.state.protection import Protection
from reknit.state.round_protection import worker_of
from reknit.strategies.base import Built, Recipe, Sharded, Strategy
from reknit.strategies.choose import make_strategy
from reknit.strategies.deepspeed_config import scale_settings
from reknit.strategies.rounds import Rounds
from reknit.strategies.scaling import ScalePolicy
from reknit.trainer.checkpointing import CheckpointCycle
from reknit.trainer.gate import Vote
from reknit.trainer.journal import Entries, Journal
from reknit.trainer.link import Link
from reknit.trainer.memory import OWN, Collection, Share, share_of, transfer
from reknit.trainer.moments import Moments
from reknit.trainer.protection import NoProtection, Protecting
from reknit.trainer.resume import agree_on_checkpoint
from reknit.trainer.session import Session
from reknit.trainer.standing import Standing, decode_result, encode_result, standing
from reknit.trainer.step import Stepper


class Training:
    """What a rank keeps while generations come and go, and how it takes up a new one.

    Args:
        built: model and optimizer, if they were built before there was a place.
    """

    def __init__(
        self,
        settings: JobSettings,
        session: Session,
        link: Link,
        recipe: Recipe,
        built: Built | None,
        state: dict[str, Json],
    ) -> None:
        self.settings = settings
        self.session = session
        self.link = link
        self.recipe = recipe
        self.moments = Moments(Board.from_environment(), link)
        self.hashes = WeightHashes.from_environment()
        self.state = state
        """The user's own."""
        self.stepper: Stepper | None = None
        self.cycle: CheckpointCycle | None = None
        self.ledger: Ledger | None = None
        self.journal = Journal(first=0)
        self._built = built
        self._anew: tuple[int, ...] = ()
        """Ranks that begin this generation without what they alone had."""
        self._damaged: tuple[str, ...] = ()
        """What is wrong with the checkpoints that this generation would rather have begun with."""

    @property
    def group(self) -> RankGroup:
        """The process group of the present generation."""
        return self.session.group

    @property
    def plan(self) -> BatchPlan:
        """How the present world divides a global batch."""
        batch = self.settings.batch
        assert batch is not None, "only commands come without batch sizes"
        return BatchPlan(batch.global_batch, batch.micro, self.group.mesh.num_data)

    @property
    def version(self) -> int:
        """Steps committed."""
        return 0 if self.stepper is None else self.stepper.version

    @property
    def loss(self) -> Loss:
        """The training loss."""
        return self.recipe.loss

    def lost(self) -> str | None:
        """What is lost if this rank ends now; None if nothing is that a checkpoint would keep."""
        if self.settings.checkpoint is None or self.stepper is None:
            return None
        durable = 0 if self.cycle is None else self.cycle.durable_version or 0
        if durable == self.version:
            return None
        start = "the beginning" if durable == 0 else f"step {durable}"
        return (
            f"step {self.version} is in no checkpoint: unless other ranks still hold it, training "
            f"will resume from {start}"
        )

    def enter(self) -> None:
        """Takes up the state in a new generation: from memory, a checkpoint, or the beginning.

        Raises:
            RewoundError: what the survivors hold is not complete, and this rank was one of them.
            CheckpointMismatchError: the checkpoint belongs to another model.
        """
        start = time.monotonic()
        self.moments.take_place(self.group.rank)
        self._anew = self._damaged = ()
        self._enter_phase(Moment.AGREE)
        told = self._standings()
        agreement = agree(
            [Report(rank, s.version, s.prepared, s.gate) for rank, s in enumerate(told)]
        )
        agreed = time.monotonic()
        if agreement.target is None:
            source = self._begin()
        elif (told[0].saved or 0) > agreement.target:
            # Ranks that were cut off have come back, but others had gone on without them.
            self._forget("a checkpoint is newer than what is held in memory")
            return
        elif self._go_on(agreement, told):
            source = MEMORY
        else:
            return
        if self.group.rank == 0:
            seconds = {
                "join": self.session.join_seconds,
                "agree": agreed - start,
                "transfer": time.monotonic() - agreed,
            }
            self.link.tell(
                Resumed(
                    generation=self.group.generation,
                    step=self.version,
                    source=source,
                    seconds=seconds,
                    anew=self._anew,
                    damaged=self._damaged,
                )
            )
        self._open_ledger()
        self.enter_function()

    def enter_function(self) -> None:
        """Declares that the user's code has its turn."""
        self.link.enter(Phase.FUNCTION, self.version)
        self.moments.enter(Moment.IDLE, self.version)

    def _enter_phase(self, moment: Moment) -> None:
        self.moments.enter(moment, self.version)
        self.link.enter(Phase.LOADING, self.version)

    def _standings(self) -> list[Standing]:
        mine = standing(self.stepper, self.cycle, self._saved())
        texts = self.group.gather_texts(mine.model_dump_json())
        return [Standing.model_validate_json(text) for text in texts]

    def _saved(self) -> int | None:
        """The version of the newest checkpoint, on the one rank that looks for it."""
        checkpoint = self.settings.checkpoint
        if checkpoint is None or self.group.rank != 0:
            return None
        info = newest(checkpoint.path, verify_contents=False)
        return None if info is None else info.version

    def _begin(self) -> str:
        """Starts from the newest checkpoint, or from the beginning; says from where."""
        stepper = self._new_stepper(self._new_strategy(None, installs=False))
        checkpoint = self.settings.checkpoint
        source, durable = "beginning", None
        if checkpoint is not None:
            info, self._damaged = agree_on_checkpoint(Path(checkpoint.path), self.group)
            if info is not None:
                with open_checkpoint(info) as opened:
                    self.state = stepper.install(opened)
                source, durable = str(info.path), info.version
        name = None if durable is None else Path(source).name
        stepper.strategy.begin(stepper.version, name)
        stepper.protection = self._protection(stepper.strategy)
        self.stepper = stepper
        self.journal = Journal(first=stepper.version, states={stepper.version: dict(self.state)})
        self.cycle = self._new_cycle(durable)
        return source

    def _forget(self, reason: str) -> None:
        """Nobody holds anything any more: all begin again, those in the midst of it from afar.

        Raises:
            RewoundError: this rank was one of them.
        """
        held_before, self.stepper = self.stepper, None
        if held_before is not None:
            raise RewoundError(reason)
        self.enter()

    def _go_on(self, agreement: Agreement, told: list[Standing]) -> bool:
        """Comes to hold the version that was agreed on; False if it is not complete in memory."""
        self._enter_phase(Moment.TRANSFER)
        group, stepper = self.group, self.stepper
        if group.rank in agreement.excluded:
            raise RuntimeError("this rank has fallen behind all others")
        if stepper is not None:
            if group.rank in agreement.behind:
                assert agreement.supplier is not None
                stepper.complete(Vote(**(told[agreement.supplier].votes or {})))
            else:
                stepper.drop_attempt()
        held = {} if stepper is None else self._held(stepper)
        in_place = stepper is not None and stepper.strategy.regroup(group)
        if stepper is not None and in_place:
            strategy = stepper.strategy
        else:
            strategy = self._new_strategy(
                None if stepper is None else stepper.strategy, installs=True
            )
        try:
            return self._take_over(strategy, held, told, in_place=in_place)
        except BaseException:
            if not in_place:
                strategy.close()
            raise

    def _take_over(
        self,
        strategy: Strategy,
        held: dict[str, LocalState],
        told: list[Standing],
        *,
        in_place: bool,
    ) -> bool:
        """Gives `strategy` the version that the ranks hold together; False if it is incomplete."""
        group, stepper = self.group, self.stepper
        first = next(rank for rank, standing in enumerate(told) if standing.version is not None)
        collection = self._collect(held, None if in_place else strategy, first)
        lacking = collection.lacking() or self._lost_elsewhere()
        if lacking is not None:
            strategy.close()
            self._forget(f"nobody holds {lacking}")
            return False
        self._anew = tuple(sorted({worker_of(name) for name in collection.lost}))
        collected = transfer(group, collection, held)
        entries = self._entries(first)
        if stepper is None:
            stepper = self._new_stepper(strategy)
            stepper.install(collected)
            for entry in entries:
                for version, result in entry.results.items():
                    stepper.results[version] = decode_result(result)
            self.journal, self.state = Journal.of_newcomer(entries)
        else:
            if not in_place:
                strategy.install(collected)
            self.journal.learn(entries)
        protection = self._protection(strategy)
        # Until here every survivor holds what it held before, should this generation end, too.
        group.barrier()
        stepper.regroup(strategy, group, self.plan, protection)
        self.stepper = stepper
        self.cycle = self._new_cycle(
            max((s.durable for s in told if s.durable is not None), default=None),
            due=any(s.unsaved for s in told),
            elapsed=max(s.elapsed for s in told),
        )
        return True

    def _lost_elsewhere(self) -> str | None:
        """What of the version was kept by servers and is gone, as any rank has found."""
        if self.settings.servers is None:
            return None
        found = None if self.stepper is None else self.stepper.strategy.lost()
        return next((text for text in self.group.gather_texts(found or "") if text), None)

    def _held(self, stepper: Stepper) -> dict[str, LocalState]:
        return {OWN: stepper.describe({})} | stepper.protection.held()

    def _collect(
        self, held: dict[str, LocalState], into: Strategy | None, first: int
    ) -> Collection:
        share = share_of(
            held, None if into is None else into.describe(), first=self.group.rank == first
        )
        texts = self.group.gather_texts(share.model_dump_json())
        return Collection.of(Share.model_validate_json(text) for text in texts)

    def _entries(self, first: int) -> list[Entries]:
        """What survivors tell of their journals."""
        told = ""
        if self.stepper is not None:
            results = {
                version: encode_result(result) for version, result in self.stepper.results.items()
            }
            entries = self.journal.entries(results, whole=self.group.rank == first)
            told = entries.model_dump_json()
        texts = self.group.gather_texts(told)
        return [Entries.model_validate_json(text) for text in texts if text]

    def _new_strategy(self, previous: Strategy | None, *, installs: bool) -> Strategy:
        built, self._built = self._built, None
        if previous is not None:
            assert isinstance(previous, Sharded)
            previous.close()
            built = previous.parts()
        return make_strategy(
            self.recipe,
            self.settings,
            self.group,
            self.plan,
            built=built,
            installs=installs,
            link=self.link,
            check=self.session.check,
        )

    def _new_stepper(self, strategy: Strategy) -> Stepper:
        stepper = Stepper(
            strategy,
            self.recipe,
            self.group,
            self.plan,
            seed=self.settings.seed,
            precision=self.settings.precision,
            policy=ScalePolicy.from_deepspeed(scale_settings(self.settings.deepspeed_config)),
            numbers=self.settings.numbers,
            moments=self.moments,
        )
        stepper.found = self._tell_wrong_numbers
        return stepper

    def _tell_wrong_numbers(self, verdict: Verdict) -> None:
        if self.group.rank == 0:
            self.link.tell(
                WrongNumbers(
                    step=self.version - 1,
                    blame=verdict.blame.value,
                    sentence=verdict.sentence,
                    ranks=verdict.ranks,
                )
            )

    def _protection(self, strategy: Strategy) -> Protecting:
        """The copies that ranks keep of each other's shards, filled."""
        group = self.group
        domains = failure_domains(group.nodes, group.hosts)
        copies = copies_needed(
            group.mesh.shares(self.settings.state_sharding), domains, self.settings.recovery.copies
        )
        if strategy.is_replicated or copies == 0 or group.world_size == 1:
            return NoProtection()
        if isinstance(strategy, Rounds):
            return strategy.protect(
                holders(group.rank, domains, copies), wards(group.rank, domains, copies)
            )
        assert isinstance(strategy, Sharded)
        protection = Protection(
            group,
            strategy,
            holders=holders(group.rank, domains, copies),
            wards=wards(group.rank, domains, copies),
        )
        protection.fill()
        return protection

    def _new_cycle(
        self, durable: int | None, *, due: bool = False, elapsed: float = 0.0
    ) -> CheckpointCycle | None:
        checkpoint = self.settings.checkpoint
        if self.cycle is not None:
            self.cycle.abandon()
        if checkpoint is None:
            return None
        checkpointer = Checkpointer(
            checkpoint.path,
            rank=self.group.rank,
            world_size=self.group.world_size,
            generation=self.group.generation,
            keep=checkpoint.keep,
        )
        return CheckpointCycle(
            checkpoint, checkpointer, self.group, durable, due=due, elapsed=elapsed
        )

    def _open_ledger(self) -> None:
        folder = os.environ.get(ENV_LEDGER)
        if self.ledger is not None:
            self.ledger.close()
        generation, rank = self.group.generation, self.group.rank
        self.ledger = Ledger(folder, generation, rank) if folder else None
