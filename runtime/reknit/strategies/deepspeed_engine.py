"""Making and ending a DeepSpeed engine, quietly."""

import logging
import os
import warnings
from collections.abc import Iterable
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch import nn

from reknit.protocol.base import Json
from reknit.strategies.base import Built

# Decided when deepspeed is imported; without it, DeepSpeed guesses from what is installed.
if "DS_ACCELERATOR" not in os.environ:
    os.environ["DS_ACCELERATOR"] = "cuda" if torch.cuda.is_available() else "cpu"

with warnings.catch_warnings():
    # Deprecations within its own imports are none of the user's business.
    warnings.simplefilter("ignore")
    import deepspeed.comm
    import deepspeed.comm.comm

    # DeepSpeed imports these two in the first engine and the first reduction, which takes seconds;
    # here it happens once in the process that all ranks are forked from.
    import deepspeed.module_inject.auto_ep_layer
    import deepspeed.runtime.zero.muon.muon_optimizer
    import deepspeed.utils.groups
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero import parameter_offload, utils
    from deepspeed.runtime.zero.config import ZERO_OPTIMIZATION
    from deepspeed.runtime.zero.partition_parameters import Init
    from deepspeed.utils import logger

    from reknit.strategies.zero_linear import restore_linear, use_exact_linear


def _no_extension() -> None:
    """In the place of DeepSpeed's shared-memory collectives for ranks of one CPU machine.

    They would be compiled at first use where a compiler is present, which takes half a minute and
    fails half-way with part of the tools, and they could not be ended from outside.
    """


class _NoCollection:
    """In the place of Python's `gc` where ZeRO 3 flattens parameters.

    Going through all objects of a process takes a third of a second, and frees nothing here.
    """

    @staticmethod
    def collect() -> None:
        pass


def _is_news(record: logging.LogRecord) -> bool:
    # Left-out updates are part of every step's record anyway.
    return "OVERFLOW" not in record.getMessage()


class _Engine(DeepSpeedEngine):  # type: ignore[misc]
    """DeepSpeed's engine with two of its checks answered."""

    def _do_optimizer_sanity_check(self, basic_optimizer: torch.optim.Optimizer) -> str:
        # DeepSpeed has a separate optimizer for ZeRO 1 with BF16 and FP32 accumulation, with other
        # state. Its ZeRO 1 can do the same.
        del basic_optimizer
        return str(ZERO_OPTIMIZATION)

    def _do_sanity_check(self) -> None:
        # It asks for hardware support of FP16, which torch does not need on a CPU. What else it
        # checks are settings that cannot be wrong here.
        pass

    def _broadcast_model(self) -> None:
        # Done for all strategies alike; DeepSpeed's fails on parameters without dimensions.
        pass


class _Partitioner(Init):  # type: ignore[misc]
    """What makes parameters those of ZeRO 3, without sending each of them to all ranks again.

    The functions that it puts on parameters refer to it and to each other, and it refers to the
    process group, whose sockets are not closed before it is gone: `release` empties it.
    """

    made: ClassVar[list["_Partitioner"]] = []

    def _convert_to_zero_parameters(self, param_list: Iterable[Any]) -> None:
        self.made.append(self)
        super()._convert_to_zero_parameters(param_list)

    def _zero_init_param(self, param: Any) -> None:
        self._convert_to_deepspeed_param(param)
        param.partition()


def make_engine(module: nn.Module, built: Built, config: dict[str, Json]) -> Any:
    """A DeepSpeed engine on the present process group."""
    # What is left of an engine that nobody could release.
    release(None)
    logger.setLevel(logging.WARNING)
    logger.addFilter(_is_news)
    # Not `deepspeed.comm.torch`, which is torch itself.
    import_module("deepspeed.comm.torch").build_shm_op = _no_extension  # type: ignore[attr-defined]
    utils.gc = _NoCollection
    parameter_offload.Init = _Partitioner
    deepspeed.comm.init_distributed(dist_backend=torch.distributed.get_backend())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = _Engine(
            args=None,
            model=module,
            optimizer=built.optimizer,
            model_parameters=list(built.parameters),
            config=config,
            config_class=DeepSpeedConfig(config),
        )
    if engine.zero_optimization_partition_weights():
        use_exact_linear()
    return engine


def release(engine: Any) -> None:
    """Ends an engine and undoes what DeepSpeed leaves behind in modules, its own and torch's.

    That is the process groups; the counters that number modules and parameters, which must agree
    among the ranks, some of which may be new processes when the next engine is made; and ZeRO 3's
    own `linear`, which rounds differently.

    Neither communicates nor waits, whatever the engine was doing. It is emptied, as engine and
    optimizer refer to each other: their buffers would stay until Python looks for cycles.

    Args:
        engine: None stands for one that could not be made.
    """
    if engine is not None:
        zero = engine.optimizer
        engine.destroy()
        vars(zero).clear()
        vars(engine).clear()
    for partitioner in _Partitioner.made:
        partitioner.__dict__.clear()
    _Partitioner.made.clear()
    deepspeed.comm.comm.cdb = None
    groups = deepspeed.utils.groups
    for name, value in list(vars(groups).items()):
        if name.startswith("_") and not name.startswith("__") and name.isupper():
            setattr(groups, name, {} if isinstance(value, dict) else None)
    Init.param_id = 0
    parameter_offload.FWD_MODULE_STACK.clear()
    register = parameter_offload.DeepSpeedZeRoOffload._register_deepspeed_module  # noqa: SLF001
    register.__defaults__[0][0] = 0
    restore_linear()
