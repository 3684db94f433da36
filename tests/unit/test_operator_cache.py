"""What the operator takes from watches and from answers to its own writes."""

from typing import Any

from tandem_operator.observe.cache import ObjectCache
from tandem_operator.resources import JOB, POD, RLJOB, JobKey, ObjectKey

KEY = JobKey("ns", "job")


def item(name: str, version: int, uid: str = "u", **more: Any) -> dict[str, Any]:
    labels = {"tandem.dev/job": "job", "app.kubernetes.io/component": "hybrid"}
    metadata = {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": str(version), "labels": labels}
    return {"metadata": {**metadata, "creationTimestamp": "2026-01-01T00:00:00Z", **more}, "spec": {"containers": []}}


def test_an_answer_of_ours_is_no_news_when_the_watch_tells_it_again() -> None:
    cache = ObjectCache()
    assert cache.take_child(JOB, None, item("job-hybrid", 5)) == KEY
    assert cache.take_child(JOB, "ADDED", item("job-hybrid", 5)) is None
    assert cache.take_child(JOB, "MODIFIED", item("job-hybrid", 4)) is None, "a watch may lag behind"


def test_a_change_that_does_not_matter_is_no_news() -> None:
    cache = ObjectCache()
    cache.take_child(JOB, None, item("job-hybrid", 5))
    assert cache.take_child(JOB, "MODIFIED", item("job-hybrid", 6, annotations={"a": "b"})) is None
    assert cache.children(KEY)[ObjectKey(JOB, "job-hybrid")].resource_version == 6


def test_the_end_of_a_predecessor_does_not_end_its_successor() -> None:
    cache = ObjectCache()
    cache.take_child(JOB, None, item("job-hybrid", 9, uid="new"))
    assert cache.take_child(JOB, "DELETED", item("job-hybrid", 8, uid="old")) is None
    assert ObjectKey(JOB, "job-hybrid") in cache.children(KEY)


def test_what_had_gone_unseen_is_forgotten_and_what_came_since_is_not() -> None:
    cache = ObjectCache()
    cache.take_job(None, item("job", 3, uid="a"))
    cache.take_child(JOB, None, item("job-hybrid", 5, uid="b"))
    cache.take_child(JOB, None, item("job-master", 12, uid="c"))
    cache.take_pod(None, item("job-hybrid-0", 6, uid="d"))
    assert cache.drop_missing(JOB, "", set(), 10) == {KEY}
    assert set(cache.children(KEY)) == {ObjectKey(JOB, "job-master")}
    assert cache.drop_missing(POD, "elsewhere", set(), 10) == set()
    assert cache.drop_missing(POD, "ns", set(), 10) == {KEY}
    assert cache.drop_missing(RLJOB, "", {"a"}, 10) == set()
    assert cache.drop_missing(RLJOB, "", set(), 10) == {KEY}
