"""What users say about cutting layers: `job.engine(tensor_plan={"blocks.*.up": Column(), ...})`.

The division into column and row layers is that of Shoeybi et al., "Megatron-LM", 2019.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A linear layer of which each rank computes some outputs, from whole inputs."""

    blocks: int = 1
    """Equal runs of outputs that are cut each by itself, e.g. 3 for query, key and value."""
    unit: int = 1
    """Outputs that stay together, e.g. the channels of a head."""
    gather: bool = False
    """Whether every rank gets all outputs; else what follows sees its own ones only."""

    def __post_init__(self) -> None:
        if self.blocks < 1 or self.unit < 1:
            raise ValueError("blocks and unit of a Column must be at least 1")
        if self.gather and self.blocks > 1:
            raise ValueError("a Column whose outputs are gathered must be cut as one block")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A linear layer that takes the outputs of column layers: each rank has some of its inputs.

    Every rank gets the whole outputs.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """An embedding of which each rank has some rows. Every rank gets the whole outputs."""


Cut: TypeAlias = Column | Row | Vocabulary
TensorPlan: TypeAlias = Mapping[str, Cut]
"""By name of a module of the model; a * stands for any one part of a name between dots."""
