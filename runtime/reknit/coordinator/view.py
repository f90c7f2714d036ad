"""What a membership looks like from outside: pure."""

from reknit.coordinator import forming, progress
from reknit.coordinator.state import Membership
from reknit.protocol.status import (
    CoordinatorStatus,
    MembershipPhase,
    RankStatus,
    RecoveryStatus,
)


def phase_of(state: Membership) -> MembershipPhase:
    """Where the membership stands."""
    if state.conclusion is not None:
        return MembershipPhase.CONCLUDED
    if state.current is not None:
        closing = any(m.finished and not m.left for m in state.current.members)
        return MembershipPhase.CLOSING if closing else MembershipPhase.RUNNING
    present = sum(a.connection is not None and not a.leaving for a in state.agents.values())
    ended = state.previous is not None
    if ended and (present == state.policy.num_workers or _any_running(state)):
        return MembershipPhase.RECOVERING
    return MembershipPhase.WAITING


def _any_running(state: Membership) -> bool:
    return any(agent.running is not None for agent in state.agents.values())


def status_of(state: Membership) -> CoordinatorStatus:
    """The answer to `GET /status`."""
    members = state.current.members if state.current else ()
    nodes = {agent.name: agent.node for agent in state.agents.values()}
    return CoordinatorStatus(
        incarnation=state.incarnation,
        phase=phase_of(state),
        generation=state.current.id if state.current else None,
        num_agents=len(state.agents),
        num_expected_agents=state.policy.num_workers,
        missing=forming.missing(state),
        ranks=tuple(
            RankStatus(
                rank=member.rank,
                agent=member.agent,
                node=nodes.get(member.agent, ""),
                phase=member.phase,
                step=member.step,
                pid=member.pid,
            )
            for member in members
        ),
        progress=progress.progress(state.steps),
        recovery=RecoveryStatus(
            count=state.recoveries.count,
            last_seconds=state.recoveries.last_seconds,
            lost_steps=state.steps.redone,
            failures_by_class=dict(state.failures_by_class),
        ),
        checkpoint=state.checkpoint,
        conclusion=state.conclusion,
    )
