"""What parameter servers will hold."""

import pytest

from reknit.protocol.inspection import Inspection
from reknit.protocol.settings import JobSettings, ServerSettings
from reknit_operator.planning.plan import make_plan
from reknit_operator.planning.servers import served_plan


def served(settings: JobSettings, **servers: int) -> JobSettings:
    return settings.model_copy(update={"servers": ServerSettings(**servers)})


def test_each_server_has_its_share_and_a_copy_of_another(
    settings: JobSettings, inspection: Inspection
) -> None:
    plan = served_plan(served(settings, num_servers=3), inspection)
    assert plan is not None
    assert [(s.primary_of, s.backup_of) for s in plan.servers] == [
        ((0,), (2,)),
        ((1,), (0,)),
        ((2,), (1,)),
    ]
    whole = make_plan(settings, inspection).num_parameters
    assert whole is not None
    assert sum(share.parameters for share in plan.servers) == 2 * 4 * whole
    for share in plan.servers:
        assert share.optimizer == inspection.optimizer_tensors * share.parameters
        assert share.working == (2 + settings.world_size) * share.parameters
        assert share.total == share.parameters + share.optimizer + share.working


@pytest.mark.parametrize(
    ("num_servers", "copies", "survivable"),
    [
        (2, 1, "none"),
        (3, 2, "any server"),
        (4, 2, "any server; any 2 servers of which neither is the other's backup"),
    ],
)
def test_what_may_be_lost(
    settings: JobSettings, inspection: Inspection, num_servers: int, copies: int, survivable: str
) -> None:
    plan = served_plan(served(settings, num_servers=num_servers, copies=copies), inspection)
    assert plan is not None
    assert plan.survivable == survivable


def test_tables_are_counted(settings: JobSettings, inspection: Inspection) -> None:
    name = next(p.name for p in inspection.parameters if p.group is not None and len(p.shape) == 2)
    found = inspection.model_copy(update={"tables": (name,)})
    plan = served_plan(served(settings, num_servers=2), found)
    assert plan is not None
    assert plan.num_tables == 1


def test_a_job_without_servers_has_no_such_plan(
    settings: JobSettings, inspection: Inspection
) -> None:
    assert make_plan(settings, inspection).served is None
