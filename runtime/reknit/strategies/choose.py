"""From the manifest to a strategy."""

from collections.abc import Callable

from reknit.comm.group import RankGroup
from reknit.layout import BatchPlan, Sharding
from reknit.protocol.settings import CommunicationSettings, JobSettings
from reknit.strategies.base import Built, Recipe, Strategy
from reknit.trainer.link import Link


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
    if settings.servers is not None:
        from reknit.strategies.served import Served

        assert link is not None, "without a line nobody says where the servers are"
        return Served(
            recipe,
            group,
            settings.servers,
            link=link,
            check=check,
            seed=settings.seed,
            precision=settings.precision,
            built=built,
            installs=installs,
        )
    if group.mesh.num_tensor > 1:
        from reknit.strategies.tensor_parallel import TensorParallel

        return TensorParallel(
            recipe,
            group,
            seed=settings.seed,
            precision=settings.precision,
            built=built,
            installs=installs,
        )
    if group.mesh.num_stages > 1:
        from reknit.strategies.pipelined import Pipelined

        return Pipelined(
            recipe,
            group,
            seed=settings.seed,
            precision=settings.precision,
            pipeline=settings.pipeline,
            built=built,
            installs=installs,
        )
    if settings.communication != CommunicationSettings():
        from reknit.strategies.quiet import make_quiet

        return make_quiet(recipe, settings, group, plan, built=built, installs=installs)
    if settings.sharding is Sharding.NONE:
        from reknit.strategies.replicated import Replicated

        return Replicated(
            recipe,
            group,
            seed=settings.seed,
            precision=settings.precision,
            built=built,
            installs=installs,
        )
    if settings.sharding is Sharding.FSDP:
        from reknit.strategies.fully_sharded import FullySharded

        return FullySharded(
            recipe,
            group,
            seed=settings.seed,
            precision=settings.precision,
            built=built,
            installs=installs,
        )
    # DeepSpeed takes seconds to import.
    from reknit.strategies.zero import ZeRO

    return ZeRO(
        recipe,
        group,
        seed=settings.seed,
        sharding=settings.sharding,
        precision=settings.precision,
        plan=plan,
        deepspeed_config=settings.deepspeed_config,
        built=built,
        installs=installs,
    )
