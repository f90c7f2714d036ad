"""The commands. Nothing heavy is imported before a command needs it."""

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console

from reknit_operator.cli.refusal import Refusal

app = typer.Typer(
    name="reknit",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Distributed training that knits itself together again when ranks die.\n\n"
        "A job is a manifest (job.yaml) that names a training function:\n\n"
        "  [cyan]reknit validate job.yaml[/]    is everything in order?\n\n"
        "  [cyan]reknit plan job.yaml[/]        what runs where, and how much memory it takes\n\n"
        "  [cyan]reknit run job.yaml[/]         run it on this machine, with a report at the end"
    ),
)

_Command = TypeVar("_Command", bound=Callable[..., None])

File = Annotated[Path, typer.Argument(metavar="FILE", help="The job's manifest.")]
RunDir = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="The folder of a run, like runs/gpt-bytes-1.")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Sets a field of entrypoint.config, like depth=6; may be given again.",
    ),
]


def _command(function: _Command) -> _Command:
    """Adds a command; lines of a paragraph of its description are joined."""
    paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
    text = "\n\n".join(" ".join(paragraph.split("\n")) for paragraph in paragraphs)
    return app.command(help=text)(function)


@_command
def validate(file: File, assignments: Set = None) -> None:
    """Checks a job without starting it: manifest, function, configuration and data set.

    The function is run up to its first training step, on tensors that have shapes but no elements,
    so this takes seconds and no memory to speak of. Exit status 2 if anything must be changed.

    Example:  [cyan]reknit validate job.yaml[/]
    """
    from reknit_operator.cli.cautions import show_cautions
    from reknit_operator.cli.check import check
    from reknit_operator.cli.planview import facts

    console = Console()
    with console.status("checking the job"):
        checked = check(file, assignments or [], None)
    console.print(
        f"{file} is in order", style="green", highlight=False, markup=False, soft_wrap=True
    )
    for line in facts(checked.plan):
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    show_cautions(console, checked.cautions)


@_command
def plan(
    file: File,
    assignments: Set = None,
    as_json: Annotated[bool, typer.Option("--json", help="Prints the plan as JSON.")] = False,
) -> None:
    """Shows what a job will look like: world, batches, memory and where lost state comes from.

    The memory of one rank is computed for every way of sharding, so that you can compare them; the
    one in the manifest is marked.

    Example:  [cyan]reknit plan job.yaml --set depth=12[/]
    """
    from reknit_operator.cli.cautions import show_cautions
    from reknit_operator.cli.check import check
    from reknit_operator.cli.planview import show_plan

    console = Console()
    with Console(stderr=as_json).status("looking into the job"):
        checked = check(file, assignments or [], None)
    if as_json:
        print(checked.plan.model_dump_json(indent=2))
    else:
        show_plan(console, checked.plan)
    show_cautions(Console(stderr=True), checked.cautions)


@_command
def run(
    file: File,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for logs, checkpoints and report; default: runs/NAME-N."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Goes on from the checkpoints of the last run, or of --run-dir."
        ),
    ] = False,
    assignments: Set = None,
    kill: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RANK@STEP",
            help="Kills a rank's process once a step is done, to see it recover; repeatable.",
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=1, max=65535, help="Serves Prometheus metrics on this port."
        ),
    ] = None,
) -> None:
    """Runs a job on this machine: each pod is a group of processes, and the rest is the real thing.

    Shows progress, loss, ranks and faults as they happen, and leaves a report. Ctrl-C stops at the
    next step with a checkpoint, a second one at once; go on later with --resume, also with another
    number of workers.

    Example:  [cyan]reknit run job.yaml --set steps=500 --kill 2@60[/]
    """
    from reknit_operator.cli.running import run as run_job

    code = run_job(
        Console(),
        Console(stderr=True),
        file,
        run_dir=run_dir,
        resume=resume,
        assignments=assignments or [],
        kills=kill or [],
        metrics_port=metrics_port,
    )
    raise typer.Exit(code)


@_command
def top(run_dir: RunDir) -> None:
    """Watches a job that runs on this machine, from another terminal.

    Example:  [cyan]reknit top runs/gpt-bytes-1[/]
    """
    from reknit_operator.cli.top import top as watch

    watch(Console(), run_dir)


@_command
def chaos(
    run_dir: RunDir,
    every: Annotated[
        str,
        typer.Option(metavar="TIME", help="Mean time between two deeds, which come at random."),
    ] = "60s",
    duration: Annotated[
        str | None,
        typer.Option("--for", metavar="TIME", help="When to stop; default: when the job ends."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stops after so many deeds.")
    ] = None,
    actions: Annotated[
        str, typer.Option(metavar="ACTION,...", help="Which deeds; default: all of them.")
    ] = "kill-rank,stop-rank,slow-rank,kill-pod,cut-off-pod,kill-coordinator,kill-operator",
    seed: Annotated[
        int, typer.Option(help="The same seed makes the same choices at the same pauses.")
    ] = 0,
    resume_after: Annotated[
        str,
        typer.Option(metavar="TIME", help="stop-rank, cut-off-pod: the process then goes on."),
    ] = "5s",
    slow_for: Annotated[
        str, typer.Option(metavar="TIME", help="slow-rank: how long the rank has half its speed.")
    ] = "10s",
) -> None:
    """Disturbs a job that runs on this machine, at random, and tells how it comes over that.

    kill-rank ends the process of a rank. stop-rank has it stand still, and slow-rank does so again
    and again. kill-pod ends an agent and everything in its pod. cut-off-pod has the agent stand
    still, so that the coordinator loses the pod while its ranks live. kill-coordinator and
    kill-operator end those. Each deed waits until the job has made a new step after the last one.
    Links between ranks are not cut: all pods share this machine's network, and taking it apart
    needs namespaces and the rights of root.

    Ctrl-C stops; processes that stand still go on. Exit status 1 if the job did not come over a
    deed.

    Example:  [cyan]reknit chaos runs/gpt-bytes-1 --every 20s --actions kill-rank,stop-rank[/]
    """
    from reknit_operator.cli.chaos.options import read_options
    from reknit_operator.cli.chaos.shell import chaos as disturb

    options = read_options(
        seed=seed,
        every=every,
        actions=actions,
        duration=duration,
        count=count,
        resume_after=resume_after,
        slow_for=slow_for,
    )
    raise typer.Exit(disturb(Console(), run_dir, options))


@_command
def report(run_dir: RunDir) -> None:
    """Writes the report of a run again: one HTML file with plots, events and facts.

    Example:  [cyan]reknit report runs/gpt-bytes-1[/]
    """
    from reknit_operator.cli.report.build import write_report

    Console().out(str(write_report(run_dir)), highlight=False)


def main() -> None:
    """The entry point of `reknit`."""
    try:
        app()
    except Refusal as refusal:
        refusal.show(Console(stderr=True))
        sys.exit(refusal.exit_code)


if __name__ == "__main__":
    main()
