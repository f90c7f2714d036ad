"""The dynamic loss scale of FP16 training, as a pure function.

The method is that of Micikevicius et al., "Mixed Precision Training", 2018: halve the scale when a
gradient overflows and leave that update out, double it after many updates without overflow.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from reknit.protocol.base import Json


@dataclass(frozen=True, slots=True)
class ScalePolicy:
    """How the loss scale moves."""

    initial: float = 2.0**16
    growth_interval: int = 2000
    """Updates without overflow after which the scale doubles; 0 keeps it constant for ever."""
    minimum: float = 1.0
    hysteresis: int = 1
    """Overflows in a row that it takes before the scale is halved."""

    @classmethod
    def from_deepspeed(cls, settings: Mapping[str, float]) -> Self:
        """The policy that DeepSpeed's `fp16` settings describe; what they leave out is default."""
        default = cls()
        static = settings.get("loss_scale", 0.0)
        if static:
            return cls(initial=static, growth_interval=0, minimum=static)
        power = settings.get("initial_scale_power")
        return cls(
            initial=default.initial if power is None else 2.0**power,
            growth_interval=int(settings.get("loss_scale_window", default.growth_interval)),
            minimum=settings.get("min_loss_scale", default.minimum),
            hysteresis=max(1, int(settings.get("hysteresis", default.hysteresis))),
        )


@dataclass(frozen=True, slots=True)
class LossScale:
    """The factor by which a loss is multiplied before backward."""

    value: float
    good_steps: int = 0
    """Updates since the scale last changed or an overflow happened."""
    overflows: int = 0
    """Overflows in a row that have not halved the scale yet."""

    def after(self, overflow: bool, policy: ScalePolicy) -> "LossScale":
        """The scale of the next step.

        Raises:
            FloatingPointError: the gradient overflows although the scale is at its minimum.
        """
        if not overflow:
            good_steps = self.good_steps + 1
            if policy.growth_interval and good_steps >= policy.growth_interval:
                return LossScale(self.value * 2)
            return LossScale(self.value, good_steps)
        if not policy.growth_interval:
            return self
        if self.overflows + 1 < policy.hysteresis:
            return replace(self, good_steps=0, overflows=self.overflows + 1)
        if self.value <= policy.minimum:
            raise FloatingPointError(
                f"the gradient is not finite although the loss scale is down to {self.value:g}"
            )
        return LossScale(max(self.value / 2, policy.minimum))

    def to_json(self) -> Json:
        """For a checkpoint."""
        return [self.value, self.good_steps, self.overflows]

    @classmethod
    def from_json(cls, value: Json) -> Self:
        """What `to_json` gave.

        Raises:
            ValueError: it is something else.
        """
        match value:
            case [int() | float() as scale, int() as good_steps, int() as overflows]:
                return cls(float(scale), good_steps, overflows)
        raise ValueError(f"no loss scale: {value!r}")
