"""Which job a reference means: an id, a name that looks like one, `last`, and their long forms."""

from __future__ import annotations

import base64

import pytest

from poormanray.errors import NotFound, UsageProblem
from poormanray.jobs.listing import Known, chosen_hosts, id_in, meant, name_in
from poormanray.ledger import job_time_s, new_job_id
from poormanray.manifest import Host, JobSummary, Manifest

JOB = "1ng8md2c5pz"


def named(name: str) -> str:
    return "name:" + base64.b64encode(name.encode()).decode()


@pytest.mark.parametrize(
    ("reference", "asked"),
    [
        ("last", "last"),
        (JOB, f"id:{JOB}"),
        (f"id:{JOB}", f"id:{JOB}"),
        ("name:last", named("last")),
        (f"name:{JOB}", named(JOB)),
        ("train", named("train")),
        ("name:train", named("train")),
        ("id:train", named("id:train")),
        ("name:name:train", named("name:train")),
    ],
)
def test_what_is_asked_for(reference: str, asked: str) -> None:
    assert meant(reference) == asked
    assert bool(id_in(reference)) == asked.startswith("id:")
    assert asked in ("last", f"id:{JOB}") or named(name_in(reference)) == asked


@pytest.mark.parametrize("reference", ["", "  ", "name:", "name:  "])
def test_no_name_is_no_job(reference: str) -> None:
    with pytest.raises(UsageProblem):
        meant(reference)


def test_ids_are_in_the_order_of_time_and_hold_it() -> None:
    ids = [new_job_id(1_790_000_000 + second) for second in range(100)]
    assert ids == sorted(ids)
    assert [job_time_s(one) for one in ids] == [1_790_000_000 + second for second in range(100)]


def test_an_unknown_instance_beside_a_known_one_is_an_error() -> None:
    hosts = (Host(0, "i-0", "c-0000", (0,)), Host(1, "i-1", "c-0001", (1,)))
    summary = JobSummary(JOB, "map", "c", "", "", 0, 2, 2, "", 0.0, "1")
    known = Known(summary, Manifest(hosts, {}), frozenset(), {})
    assert chosen_hosts(known, ()) == [*hosts]
    assert chosen_hosts(known, ("c-0001", "i-1")) == [hosts[1]]
    with pytest.raises(NotFound, match="has no instance i-9, c-0007"):
        chosen_hosts(known, ("i-0", "i-9", "c-0007"))
