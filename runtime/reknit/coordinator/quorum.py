"""Whether the agents that are there may go on without those that are missing: pure.

Two coordinators, cut off from each other, must not both find a job that goes on. So whoever goes on
without agents of the previous generation, with fewer of them or with spares in their places, needs
a majority of that generation, or the certainty that its others are gone. Spares count for nothing.
"""

from reknit.coordinator.state import Membership, Previous


def others_cannot_go_on(state: Membership) -> bool:
    """Whether nobody else can go on from the previous generation; False if there was none."""
    previous = state.previous
    if previous is None:
        return False
    survivors = previous.agents & state.agents.keys()
    return 2 * len(survivors) > previous.num_agents or _all_gone(state, previous)


def _all_gone(state: Membership, previous: Previous) -> bool:
    all_known = len(previous.agents) == previous.num_agents
    return all_known and previous.agents - state.agents.keys() <= state.gone


def missing(state: Membership) -> tuple[str, ...]:
    """Agents of the previous generation that nobody hears, and that are not known to be gone."""
    if state.current is not None or state.previous is None:
        return ()
    if not state.policy.may_shrink and not state.spares:
        return ()
    return tuple(sorted(state.previous.agents - state.agents.keys() - state.gone))
