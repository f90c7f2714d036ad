"""What builders must know of the place that the pods will run in."""

from dataclasses import dataclass

from reknit_operator.constants import DEFAULT_IMAGE, OPERATOR_IMAGE


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Settings of the operator that end up in pods."""

    image: str = DEFAULT_IMAGE
    """Image of training containers unless the job names its own."""
    coordinator_image: str = OPERATOR_IMAGE
    """Image of coordinators; they need no torch."""
    python: tuple[str, ...] = ("python",)
    """Command that starts Python in the image."""
    checkpoint_root: str | None = None
    """A folder that every pod sees; None: only jobs with a volume write checkpoints."""
    coordinator_clients: tuple[str, ...] = ()
    """Namespaces whose pods may reach coordinators; none: jobs get no NetworkPolicy."""
    disruption_budgets: bool = False
    """Whether jobs get a PodDisruptionBudget."""
