"""The options of `reknit chaos` as they are typed."""

from datetime import timedelta

from reknit_operator.api.duration import parse
from reknit_operator.cli.chaos.decide import Action
from reknit_operator.cli.chaos.shell import Options
from reknit_operator.cli.refusal import Refusal


def read_options(
    *,
    seed: int,
    every: str,
    actions: str,
    duration: str | None,
    count: int | None,
    resume_after: str,
    slow_for: str,
) -> Options:
    """The options.

    Raises:
        Refusal: some of them make no sense; all of those are named.
    """
    problems: list[str] = []
    times = {"--every": every, "--resume-after": resume_after, "--slow-for": slow_for}
    if duration is not None:
        times["--for"] = duration
    spans = {name: _span(name, text, problems) for name, text in times.items()}
    wanted = [name.strip() for name in actions.split(",")]
    known = {str(action): action for action in Action}
    for name in wanted:
        if name not in known:
            problems.append(f"--actions: there is no {name!r}; there are {', '.join(known)}")
    if problems:
        raise Refusal(problems)
    return Options(
        seed=seed,
        every=spans["--every"],
        actions=tuple(known[name] for name in wanted),
        duration=spans.get("--for"),
        count=count,
        resume_after=spans["--resume-after"],
        slow_for=spans["--slow-for"],
    )


def _span(name: str, text: str, problems: list[str]) -> timedelta:
    try:
        return parse(text)
    except ValueError as error:
        problems.append(f"{name}: {error}")
        return timedelta()
