"""What a prune may remove: nothing that runs anywhere, or may run where nobody can look."""

from __future__ import annotations

from poormanray.jobs.prune import Part, planned


def part(job: str, instance: str, *, hosts: int = 2, why: str = "", age_s: int = 9) -> Part:
    return Part(job, instance, 100, age_s, hosts, why)


def test_what_runs_on_one_instance_stays_on_all() -> None:
    goes, stays = planned(
        [part("a", "i-0"), part("a", "i-1", why="it still runs"), part("b", "i-0", age_s=3)],
        unasked=0,
    )
    assert [(one.job_id, one.size_bytes, one.age_s) for one in goes] == [("b", 100, 3)]
    assert [(one.job_id, one.why) for one in stays] == [("a", "it still runs")]


def test_what_an_unasked_instance_may_have_stays() -> None:
    parts = [part("a", "i-0"), part("b", "i-0"), part("b", "i-1"), part("c", "i-0", hosts=0)]
    goes, stays = planned(parts, unasked=1)
    assert [one.job_id for one in goes] == ["b", "c"]
    assert [one.job_id for one in stays] == ["a"]
    assert planned(parts, unasked=0)[1] == ()
