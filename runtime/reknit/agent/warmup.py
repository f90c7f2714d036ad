"""What a forkserver does once, so that its children need not: imports, and the user's check."""

import gc
import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Final

from reknit.agent.config import DEFAULT_TARGET
from reknit.agent.linux import num_threads
from reknit.errors import ConfigurationError
from reknit.layout import Sharding
from reknit.protocol.outcome import (
    MAX_EXCEPTION_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    ErrorReport,
    ExitClass,
    sendable,
)
from reknit.protocol.settings import JobSettings

_PACKAGE: Final = f"{Path(__file__).parent.parent}{os.sep}"


def preloaded_modules(settings: JobSettings, target: str) -> tuple[str, ...]:
    """What rank processes of this job import anyway.

    The first optimizer pulls in torch._dynamo, which costs as much as torch itself.
    """
    module = target.partition(":")[0]
    if target != DEFAULT_TARGET:
        return (module,)
    engines = {Sharding.NONE: (), Sharding.FSDP: ("reknit.strategies.fully_sharded",)}
    engine = engines.get(settings.sharding, ("reknit.strategies.zero",))
    if settings.servers is not None:
        engine = ("reknit.strategies.served", "reknit.trainer.serving")
    return ("torch", "torch.distributed", "torch.optim", "torch._dynamo", *engine, module)


def preload(settings: JobSettings, target: str) -> None:
    """Imports them."""
    for module in preloaded_modules(settings, target):
        import_module(module)


def resolve_target(target: str) -> Callable[..., int]:
    """The callable behind `module:name`."""
    module, _, name = target.partition(":")
    found: Callable[..., int] = getattr(import_module(module), name)
    return found


def check_function(settings: JobSettings) -> ErrorReport | None:
    """Imports the user's module, and builds its configuration; None when all is well."""
    if settings.function is None:
        return None
    from reknit.userfunction import resolve

    try:
        resolve(settings.function).build_config(settings.config)
    except ConfigurationError as error:
        return ErrorReport(
            exception=str(error), traceback=str(error), exit_class=ExitClass.CONFIGURATION
        )
    except (Exception, SystemExit) as error:
        return report(error)
    return None


def check_program(settings: JobSettings) -> ErrorReport | None:
    """Whether the command's program exists here; None when it does."""
    if settings.command is None or shutil.which(settings.command[0]) is not None:
        return None
    text = f"spec.entrypoint.command: there is no program {settings.command[0]!r} in the image"
    return ErrorReport(exception=text, traceback=text, exit_class=ExitClass.CONFIGURATION)


def report(error: BaseException) -> ErrorReport:
    """An exception of the user's module, with the frames that led there left out."""
    frames = error.__traceback__
    while frames is not None and _is_own(frames.tb_frame.f_code.co_filename):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    return ErrorReport(
        exception=sendable(lines[-1].strip()[:MAX_EXCEPTION_CHARACTERS], MAX_EXCEPTION_CHARACTERS),
        traceback=sendable("".join(lines).rstrip(), MAX_TRACEBACK_CHARACTERS),
    )


def _is_own(file: str) -> bool:
    return file.startswith((_PACKAGE, "<frozen importlib")) or file == importlib.__file__


def fork_obstacle() -> str | None:
    """Why children of this process could not be trusted; None when they can.

    A fork copies one thread: locks that others hold stay locked for ever. CUDA cannot be used in a
    child of a process that has initialised it, or that has merely asked it for its devices, which
    only a child can find out.
    """
    if num_threads() != 1:
        return f"preloading has left {num_threads()} threads"
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if torch.cuda.is_initialized():
        return "preloading has left a CUDA context"
    child = os.fork()
    if child == 0:
        os._exit(int(torch.cuda._is_in_bad_fork()))  # noqa: SLF001 - torch has no public question
    if os.waitpid(child, 0)[1] != 0:
        return "preloading has asked CUDA for its devices"
    return None


def settle_memory() -> None:
    """Keeps the garbage collector from writing to pages that children share."""
    gc.collect()
    gc.freeze()
