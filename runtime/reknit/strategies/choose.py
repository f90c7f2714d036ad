"""From the manifest to a strategy."""

from reknit.comm.group import RankGroup
from reknit.layout import BatchPlan, Sharding
from reknit.protocol.settings import JobSettings
from reknit.strategies.base import Recipe, Strategy


def make_strategy(
    recipe: Recipe, settings: JobSettings, group: RankGroup, plan: BatchPlan
) -> Strategy:
    """Builds the model and optimizer the way `settings` say.

    Raises:
        ConfigurationError: the strategy cannot train this model with this optimizer.
    """
    if settings.sharding is Sharding.NONE:
        from reknit.strategies.replicated import Replicated

        return Replicated(recipe, group, seed=settings.seed, precision=settings.precision)
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
    )
