"""The cache: the newest word about each object, whatever order words come in."""

import pytest

from reknit_operator.constants import LABEL_JOB, Kind
from reknit_operator.reconcile.cache import Cache, job_key
from reknit_operator.reconcile.client import ObjectList, WatchEvent

KEY = ("default", "gpt")


def job(version=1, uid="j"):
    metadata = {"name": "gpt", "namespace": "default", "uid": uid, "resourceVersion": str(version)}
    return {"kind": "DistributedTrainingJob", "metadata": metadata}


def pod(version, name="p", uid=None):
    metadata = {
        "name": name,
        "namespace": "default",
        "uid": uid or name,
        "resourceVersion": str(version),
        "labels": {LABEL_JOB: "gpt"},
    }
    return {"kind": "Pod", "metadata": metadata}


def versions(cache):
    return {
        item["metadata"]["name"]: int(item["metadata"]["resourceVersion"])
        for item in cache.children(KEY)
    }


def test_objects_belong_to_jobs():
    assert job_key(job()) == KEY
    assert job_key(pod(1)) == KEY
    stranger = pod(1)
    stranger["metadata"]["labels"] = {}
    assert job_key(stranger) is None
    assert Cache().put(stranger) is None


def test_events_change_the_cache_and_name_the_job():
    cache = Cache()
    assert cache.handle(WatchEvent("ADDED", job())) == KEY
    assert cache.handle(WatchEvent("ADDED", pod(2))) == KEY
    assert cache.handle(WatchEvent("MODIFIED", pod(3))) == KEY
    assert cache.handle(WatchEvent("BOOKMARK", pod(9))) is None
    assert (cache.job(KEY), versions(cache)) == (job(), {"p": 3})
    assert cache.handle(WatchEvent("DELETED", pod(4))) == KEY
    assert cache.handle(WatchEvent("DELETED", job(5))) == KEY
    assert (cache.job(KEY), cache.children(KEY)) == (None, [])


def test_an_old_word_does_not_undo_a_newer_one():
    cache = Cache()
    cache.put(pod(5))
    cache.put(pod(4))
    assert versions(cache) == {"p": 5}


def test_an_own_write_that_comes_late_does_not_bring_back_the_dead():
    cache = Cache()
    cache.handle(WatchEvent("DELETED", pod(6)))
    cache.put(pod(5))
    assert cache.children(KEY) == []


def test_the_end_of_a_namesake_is_not_the_end_of_its_successor():
    cache = Cache()
    cache.put(pod(7, uid="new"))
    cache.remove(pod(6, uid="old"))
    cache.put(job(8, uid="new"))
    cache.remove(job(6, uid="old"))
    assert versions(cache) == {"p": 7}
    assert cache.job(KEY) is not None


@pytest.mark.parametrize(("version", "kept"), [(9, False), (10, False), (11, True)])
def test_a_list_drops_what_it_lacks_unless_it_is_newer(version, kept):
    cache = Cache()
    cache.put(job(1))
    cache.put(pod(version, "mine"))
    changed = cache.replace(Kind.POD, ObjectList((pod(8, "other"),), "10"))
    assert changed == {KEY}
    assert ("mine" in versions(cache)) is kept
    assert "other" in versions(cache)
    assert cache.job(KEY) is not None
