"""What an agent does for parameter servers: its own, and those that its ranks work with."""

from dataclasses import replace
from typing import Final

from reknit.agent import parking
from reknit.agent.events import Action, GivePlace, Log, Send, Tell
from reknit.agent.state import AgentState, ParkedProcess
from reknit.protocol.outcome import ErrorReport, ExitClass
from reknit.protocol.ranks import Failed, FromRank, Parked
from reknit.protocol.servers import FromServer, Leases, Serving, Views

_CERTAIN: Final = frozenset({ExitClass.CONFIGURATION, ExitClass.PROGRAM_ERROR})
"""Classes of failures before a server is ready that another attempt would meet, too."""


def views(state: AgentState, message: Views) -> tuple[AgentState, list[Action]]:
    """Who serves from now on: every process that may need it is told."""
    if message.incarnation < state.promised:
        return state, [Log(f"the views of incarnation {message.incarnation} are stale")]
    state = replace(state, promised=message.incarnation, views=message)
    launches = [slot.launch for slot in state.live if slot.launch is not None]
    if state.is_server:
        launches += [parked.launch for parked in state.parked]
    return state, [Tell(launch, message) for launch in launches]


def leases(state: AgentState, message: Leases) -> list[Action]:
    """Hands leases to the server, which knows by the name whether they are its own."""
    return [Tell(parked.launch, message) for parked in state.parked]


def informed(state: AgentState, actions: list[Action]) -> list[Action]:
    """The actions, in which every process that gets a place learns of the views, too."""
    if state.views is None:
        return actions
    told: list[Action] = []
    for action in actions:
        told.append(action)
        if isinstance(action, GivePlace):
            told.append(Tell(action.launch, state.views))
    return told


def said(
    state: AgentState, parked: ParkedProcess, message: FromRank
) -> tuple[AgentState, list[Action]]:
    """The server has said something that is not a mere sign of life."""
    match message:
        case Serving():
            return state, [Send(FromServer(launch=parked.launch, message=message))]
        case Parked() if state.views is not None:
            return state, [Tell(parked.launch, state.views)]
        case Failed(error=error):
            return replace(state, problem=error), [Log(f"the server failed: {error.exception}")]
    return state, []


def hopeless(state: AgentState) -> ErrorReport | None:
    """Why no server will ever run here."""
    problem = state.problem
    if not state.is_server or state.parked:
        return None
    if problem is not None and problem.exit_class in _CERTAIN:
        return problem
    if state.parking_failures < parking.MAX_FAILURES:
        return None
    text = "the parameter server ends before it is ready, again and again"
    return problem or ErrorReport(
        exception=text, traceback=text, exit_class=ExitClass.INFRASTRUCTURE
    )
