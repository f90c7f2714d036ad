"""Running the user's function up to its first training step."""

import importlib
from contextlib import suppress
from pathlib import Path
from traceback import TracebackException
from typing import Final

import reknit
from reknit.agent.warmup import fork_obstacle
from reknit.errors import ConfigurationError
from reknit.protocol.inspection import Inspection, InspectionFailure
from reknit.protocol.settings import BatchSettings, JobSettings
from reknit.userfunction import FUNCTION_PATH, UserFunction, resolve

_PLUMBING: Final = (str(Path(reknit.__file__).parent), importlib.__file__, "<frozen importlib")
"""Beginnings of the names of files whose frames only show how the user's code was called."""


def inspect(settings: JobSettings) -> Inspection | InspectionFailure:
    """What the user's function asks for, or what is wrong with it or its configuration."""
    try:
        return _inspect(settings)
    except ConfigurationError as error:
        return InspectionFailure(problems=(str(error),))
    except (Exception, SystemExit) as error:
        return InspectionFailure(
            problems=(f"{FUNCTION_PATH}: {settings.function} raised {_in_one_line(error)}",),
            traceback=user_traceback(error),
        )


def _inspect(settings: JobSettings) -> Inspection | InspectionFailure:
    if settings.function is None or settings.batch is None:
        raise ConfigurationError("only a job with a function and a batch can be inspected")
    function = resolve(settings.function)
    problems = function.problems(settings.config)
    if problems:
        return InspectionFailure(problems=tuple(problems))
    # Asked before the function runs, as a forkserver imports the module and calls nothing.
    obstacle = fork_obstacle()
    config = function.build_config(settings.config)
    described = function.describe(config)
    found = _run(function, config, settings, settings.batch)
    return found.model_copy(update={"config": described, "warm_start_obstacle": obstacle})


def _run(
    function: UserFunction, config: object, settings: JobSettings, batch: BatchSettings
) -> Inspection:
    # Imported late: a mistake in the configuration is reported before torch is loaded.
    from reknit.inspection.job import Inspected, InspectionJob

    job = InspectionJob(settings, batch)
    with suppress(Inspected):
        function.call(job, config)
    return job.result()


def user_traceback(error: BaseException) -> str:
    """The traceback as it would look without Reknit: our frames are left out."""
    lines = TracebackException.from_exception(error)
    seen: TracebackException | None = lines
    while seen is not None:
        theirs = [frame for frame in seen.stack if not frame.filename.startswith(_PLUMBING)]
        seen.stack[:] = theirs
        seen = seen.__cause__ or seen.__context__
    return "".join(lines.format())


def _in_one_line(error: BaseException) -> str:
    return " ".join(
        "".join(TracebackException.from_exception(error).format_exception_only()).split()
    )
