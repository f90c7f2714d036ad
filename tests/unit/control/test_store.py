"""The object store, in memory and over its socket: the same rules both ways."""

import asyncio
import tempfile
from pathlib import Path

import pytest

from reknit_operator.constants import Kind
from reknit_operator.local.client import StoreClient
from reknit_operator.local.server import StoreServer
from reknit_operator.local.store import ObjectStore
from reknit_operator.reconcile.client import (
    AlreadyExistsError,
    ConflictError,
    ExpiredError,
    NotFoundError,
)
from reknit_operator.reconcile.observe import ref_of
from reknit_operator.reconcile.observed import Ref


def item(name="a", kind=Kind.SECRET, *, owner=None, labels=None, **fields):
    metadata = {"name": name, "namespace": "default", "labels": labels or {}}
    if owner is not None:
        metadata["ownerReferences"] = [{"uid": owner["metadata"]["uid"], "controller": True}]
    return {"apiVersion": "v1", "kind": kind.value, "metadata": metadata, **fields}


@pytest.fixture
def store():
    return ObjectStore(max_changes=50)


@pytest.fixture(params=["memory", "socket"])
async def client(request, store):
    if request.param == "memory":
        yield store
        return
    server = StoreServer(store)
    # The path of a unix socket is short; pytest's folders may be too deep.
    with tempfile.TemporaryDirectory() as folder:
        await server.start(Path(folder, "store"))
        async with StoreClient(Path(folder, "store")) as over_socket:
            yield over_socket
        await server.close()


async def take(client, kind, after, number):
    """The next changes of a watch."""
    changes = []
    async with asyncio.timeout(10):
        async for event in client.watch(kind, after=after):
            changes.append((event.type, event.object["metadata"]["name"]))
            if len(changes) == number:
                return changes
    raise AssertionError("the watch has ended")


async def test_creation_gives_identity(client):
    first = await client.create(item("a"))
    second = await client.create(item("b"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    assert await client.get(ref_of(first)) == first


async def test_names_are_unique_per_kind(client):
    await client.create(item("a"))
    await client.create(item("a", Kind.SERVICE))
    with pytest.raises(AlreadyExistsError):
        await client.create(item("a"))


async def test_missing_objects(client):
    ref = Ref(Kind.SECRET, "default", "a")
    with pytest.raises(NotFoundError):
        await client.get(ref)
    with pytest.raises(NotFoundError):
        await client.delete(ref)
    with pytest.raises(NotFoundError):
        await client.patch_status(ref, {}, resource_version="1")


async def test_a_uid_names_exactly_one_object(client):
    old = await client.create(item("a"))
    await client.delete(ref_of(old))
    new = await client.create(item("a"))
    with pytest.raises(NotFoundError):
        await client.delete(ref_of(old))
    assert await client.get(ref_of(new)) == new


async def test_status_is_compared_and_swapped(client):
    job = await client.create(item("a", Kind.JOB, spec={}))
    version = job["metadata"]["resourceVersion"]
    written = await client.patch_status(ref_of(job), {"x": 1}, resource_version=version)
    assert (written["status"], written["metadata"]["generation"]) == ({"x": 1}, 1)
    with pytest.raises(ConflictError):
        await client.patch_status(ref_of(job), {"x": 2}, resource_version=version)
    assert (await client.get(ref_of(job)))["status"] == {"x": 1}


async def test_lists_select_by_label(client):
    for name, team in (("a", "x"), ("b", "y"), ("c", "x")):
        await client.create(item(name, labels={"team": team, "name": name}))
    await client.create(item("d", Kind.SERVICE, labels={"team": "x"}))
    listed = await client.list(Kind.SECRET, labels={"team": "x"})
    assert [found["metadata"]["name"] for found in listed.items] == ["a", "c"]
    assert len((await client.list(Kind.SECRET)).items) == 3
    assert int(listed.resource_version) == 4


async def test_a_watch_goes_on_where_a_list_ended(client):
    await client.create(item("before"))
    listed = await client.list(Kind.SECRET)
    created = await client.create(item("a"))
    await client.create(item("other", Kind.SERVICE))
    await client.delete(ref_of(created))
    changes = await take(client, Kind.SECRET, listed.resource_version, 2)
    assert changes == [("ADDED", "a"), ("DELETED", "a")]


async def test_a_watch_waits_for_what_comes(client):
    listed = await client.list(Kind.SECRET)
    watch = asyncio.create_task(take(client, Kind.SECRET, listed.resource_version, 2))
    await client.create(item("a"))
    await client.create(item("b"))
    assert await watch == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_watch_that_is_too_far_behind_is_told(client, store):
    for number in range(60):
        await store.create(item(f"n{number}"))
    with pytest.raises(ExpiredError):
        await take(client, Kind.SECRET, "1", 1)


async def test_pods_are_deleted_gracefully_and_only_once(client, store):
    spec = {"terminationGracePeriodSeconds": 5}
    pod = await client.create(item("p", Kind.POD, spec=spec))
    assert pod["status"] == {"phase": "Pending"}
    await client.delete(ref_of(pod))
    marked = await client.get(ref_of(pod))
    assert "deletionTimestamp" in marked["metadata"]
    await client.delete(ref_of(pod))
    assert await client.get(ref_of(pod)) == marked
    store.finalize(ref_of(pod))
    store.finalize(ref_of(pod))
    with pytest.raises(NotFoundError):
        await client.get(ref_of(pod))


async def test_forced_deletion_does_not_wait(client):
    pod = await client.create(item("p", Kind.POD, spec={}))
    await client.delete(ref_of(pod), force=True)
    with pytest.raises(NotFoundError):
        await client.get(ref_of(pod))


async def test_children_go_with_their_owner(client):
    job = await client.create(item("j", Kind.JOB))
    secret = await client.create(item("s", owner=job))
    pod = await client.create(item("p", Kind.POD, owner=job, spec={}))
    foreign = await client.create(item("f"))
    await client.delete(ref_of(job))
    with pytest.raises(NotFoundError):
        await client.get(ref_of(secret))
    assert "deletionTimestamp" in (await client.get(ref_of(pod)))["metadata"]
    assert await client.get(ref_of(foreign)) == foreign


async def test_events_are_kept_in_order(client, store):
    for number in range(3):
        await client.record_event({"reason": str(number)})
    assert [event["reason"] for event in store.events] == ["0", "1", "2"]


async def test_nobody_can_change_what_is_stored_through_a_copy(store):
    original = item("a", data={"x": 1})
    created = await store.create(original)
    original["data"]["x"] = created["data"]["x"] = 2
    store.peek(ref_of(created))["data"]["x"] = 3
    assert store.peek(ref_of(created))["data"] == {"x": 1}


async def test_a_change_of_the_spec_counts_a_generation(store):
    job = await store.create(item("j", Kind.JOB, spec={"seed": 1, "suspend": False}))
    store.merge_spec(ref_of(job), {"suspend": True})
    changed = store.peek(ref_of(job))
    assert changed["spec"] == {"seed": 1, "suspend": True}
    assert changed["metadata"]["generation"] == 2
    store.set_status(ref_of(job), {})
    assert store.peek(ref_of(job))["metadata"]["generation"] == 2


async def test_waiting_for_any_change(store):
    version = store.version
    waiting = asyncio.create_task(store.changed_since(version))
    await asyncio.sleep(0)
    assert not waiting.done()
    await store.create(item("a"))
    await asyncio.wait_for(waiting, 10)
    await asyncio.wait_for(store.changed_since(version), 10)


async def test_the_end_of_the_store_ends_a_watch(store):
    server = StoreServer(store)
    with tempfile.TemporaryDirectory() as folder:
        await server.start(Path(folder, "store"))
        async with StoreClient(Path(folder, "store")) as client:
            watch = client.watch(Kind.SECRET, after="0")
            await store.create(item("a"))
            assert (await anext(watch)).type == "ADDED"
            await server.close()
            with pytest.raises(ConnectionError):
                await anext(watch)


async def test_a_client_is_used_inside_its_context():
    with pytest.raises(RuntimeError, match="context"):
        await StoreClient(Path("nowhere")).list(Kind.POD)
