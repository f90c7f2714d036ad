"""From the manifest to one of the strategies that communicate less."""

from reknit.comm.group import RankGroup
from reknit.layout import BatchPlan
from reknit.protocol.settings import Compression, JobSettings
from reknit.strategies.base import Built, Recipe, Strategy


def make_quiet(
    recipe: Recipe,
    settings: JobSettings,
    group: RankGroup,
    plan: BatchPlan,
    *,
    built: Built | None = None,
    installs: bool = False,
) -> Strategy:
    """What `make_strategy` makes where `settings.communication` says something."""
    communication = settings.communication
    if communication.rounds is not None:
        from reknit.strategies.rounds import Rounds

        return Rounds(
            recipe,
            group,
            plan,
            communication.rounds,
            seed=settings.seed,
            precision=settings.precision,
            compression=communication.compression,
            built=built,
            installs=installs,
        )
    if communication.compression is Compression.POWER_SGD:
        from reknit.strategies.low_rank import LowRank

        return LowRank(
            recipe,
            group,
            columns=communication.power_sgd_rank,
            seed=settings.seed,
            precision=settings.precision,
            built=built,
            installs=installs,
        )
    from reknit.strategies.replicated import Replicated

    return Replicated(
        recipe,
        group,
        seed=settings.seed,
        precision=settings.precision,
        compression=communication.compression,
        built=built,
        installs=installs,
    )
