"""What a membership looks like from outside: pure."""

from reknit.coordinator import fleet, progress, quorum, spares
from reknit.coordinator.state import Membership
from reknit.protocol.status import (
    CoordinatorStatus,
    MembershipPhase,
    Promotion,
    RangeStatus,
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
    is_complete = len(spares.candidates(state)) == state.policy.num_workers
    if state.previous is not None and (is_complete or _any_running(state)):
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
        num_agents=len(state.workers),
        num_expected_agents=state.policy.num_workers,
        num_spares=sum(agent.is_present and agent.is_warm for agent in state.spares),
        promotions=tuple(
            Promotion(agent=agent.name, replica=agent.replica, instead_of=agent.instead_of)
            for agent in state.workers
            if agent.is_spare and agent.replica is not None and agent.claim == agent.replica
        ),
        missing=quorum.missing(state),
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
        ranges=tuple(
            RangeStatus(
                number=number,
                primary=view.primary,
                backup=view.backup,
                protected=fleet.is_protected(state.fleet, number),
                version=fleet.version_of(state.fleet, number),
            )
            for number, view in enumerate(state.fleet.views)
        ),
        servers=tuple(agent.name for agent in state.servers),
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
