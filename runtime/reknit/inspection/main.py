"""Running the user's function up to its first training step."""

from contextlib import suppress

from reknit.agent.warmup import fork_obstacle
from reknit.errors import ConfigurationError
from reknit.protocol.inspection import Inspection, InspectionFailure
from reknit.protocol.settings import BatchSettings, JobSettings
from reknit.userfunction import FUNCTION_PATH, UserFunction, resolve


def inspect(settings: JobSettings) -> Inspection | InspectionFailure:
    """What the user's function asks for, or what is wrong with it or its configuration."""
    try:
        return _inspect(settings)
    except ConfigurationError as error:
        return InspectionFailure(problems=(str(error),))
    except OSError as error:
        if error.filename is None or error.strerror is None:
            return _raised(settings, error)
        # Before the first step that is what the job reads: its data, or weights to start from.
        return InspectionFailure(
            problems=(
                f"{FUNCTION_PATH}: {settings.function} cannot use {error.filename}: "
                f"{error.strerror}",
            )
        )
    except (Exception, SystemExit) as error:
        return _raised(settings, error)


def _raised(settings: JobSettings, error: BaseException) -> InspectionFailure:
    """An exception of the user's function, with its traceback."""
    # Imported late, with torch: this is the only thing here that needs it before the function.
    from reknit.rank.failure import report

    told = report(error, None)
    return InspectionFailure(
        problems=(f"{FUNCTION_PATH}: {settings.function} raised {told.exception}",),
        traceback=told.traceback,
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
    return found.model_copy(
        update={
            "config": described,
            "config_fields": function.field_names,
            "warm_start_obstacle": obstacle,
        }
    )


def _run(
    function: UserFunction, config: object, settings: JobSettings, batch: BatchSettings
) -> Inspection:
    # Imported late: a mistake in the configuration is reported before torch is loaded.
    from reknit.inspection.job import Inspected, InspectionJob
    from reknit.inspection.stored import check_stored

    job = InspectionJob(settings, batch)
    with suppress(Inspected):
        function.call(job, config)
    found = job.result()
    check_stored(settings.checkpoint, found)
    return found
