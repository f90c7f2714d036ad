"""From the manifest to a strategy."""

from collections.abc import Callable
from typing import TypedDict

from reknit.comm.group import RankGroup
from reknit.layout import BatchPlan, Precision, Sharding
from reknit.protocol.settings import CommunicationSettings, Compression, JobSettings
from reknit.strategies.base import Built, Recipe, Strategy
from reknit.trainer.link import Link


class _Common(TypedDict):
    """What every strategy is made with."""

    seed: int
    precision: Precision
    built: Built | None
    installs: bool


def make_strategy(
    recipe: Recipe,
    settings: JobSettings,
    group: RankGroup,
    plan: BatchPlan,
    *,
    built: Built | None = None,
    installs: bool = False,
    link: Link | None = None,
    check: Callable[[], None] = lambda: None,
) -> Strategy:
    """Builds the model and optimizer the way `settings` say, on all ranks together.

    Args:
        recipe: what the user's code has asked for.
        settings: the job.
        group: the present process group.
        plan: how a global batch is divided.
        built: model and optimizer that were built already.
        installs: a state is installed at once, so that what the weights are now does not matter.
        link: the line to the agent, which says who the parameter servers are.
        check: raises when the generation has ended.

    Raises:
        ConfigurationError: the strategy cannot train this model with this optimizer.
    """
    common = _Common(
        seed=settings.seed, precision=settings.precision, built=built, installs=installs
    )
    if settings.servers is not None:
        from reknit.strategies.served import Served

        assert link is not None, "without a line nobody says where the servers are"
        return Served(recipe, group, settings.servers, link=link, check=check, **common)
    if group.mesh.num_tensor > 1:
        from reknit.strategies.tensor_parallel import TensorParallel

        return TensorParallel(recipe, group, **common)
    if group.mesh.num_stages > 1:
        from reknit.strategies.pipelined import Pipelined

        return Pipelined(recipe, group, pipeline=settings.pipeline, **common)
    if settings.sharding is Sharding.NONE:
        return _whole(recipe, settings.communication, group, plan, common)
    if settings.sharding is Sharding.FSDP:
        from reknit.strategies.fully_sharded import FullySharded

        return FullySharded(recipe, group, **common)
    # DeepSpeed takes seconds to import.
    from reknit.strategies.zero import ZeRO

    return ZeRO(
        recipe,
        group,
        sharding=settings.sharding,
        plan=plan,
        deepspeed_config=settings.deepspeed_config,
        **common,
    )


def _whole(
    recipe: Recipe,
    communication: CommunicationSettings,
    group: RankGroup,
    plan: BatchPlan,
    common: _Common,
) -> Strategy:
    """The whole model on every rank; what ranks send each other is the manifest's choice."""
    compression = communication.compression
    if communication.rounds is not None:
        from reknit.strategies.rounds import Rounds

        return Rounds(recipe, group, plan, communication.rounds, compression=compression, **common)
    if compression is Compression.POWER_SGD:
        from reknit.strategies.low_rank import LowRank

        return LowRank(recipe, group, columns=communication.power_sgd_rank, **common)
    from reknit.strategies.replicated import Replicated

    return Replicated(recipe, group, compression=compression, **common)
