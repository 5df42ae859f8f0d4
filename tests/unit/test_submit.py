"""How a job's content travels, and the honest word on how long that takes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poormanray.cli.sending import bucket_advice, way_row, way_words
from poormanray.envelope import Answer
from poormanray.errors import UsageProblem
from poormanray.jobs import submit
from poormanray.jobs.submit import PART_BYTES, pack, sending_s
from poormanray.manifest import HelperFile, Host, Job, Task
from poormanray.remote import Order, Reply
from poormanray.shell import SEND_LIMIT_CHARS, Call, render

URL = f"https://mine.s3.us-east-1.amazonaws.com/poormanray/j/content?{'X' * 2000}"


def job(size: int, instances: int = 3) -> Job:
    """Return a job with so many bytes of content that no compression makes smaller."""
    return Job(
        job_id="1ng8md2c5pz",
        kind="run",
        cluster="c",
        region="us-east-1",
        hosts=tuple(Host(n, f"i-{n:017x}", f"c-{n:04d}", (n,)) for n in range(instances)),
        tasks=tuple(Task(n, str(n), 0) for n in range(instances)),
        scripts=(b"#!/bin/sh\n",),
        helper_files=(HelperFile("noise", random.Random(1).randbytes(size)),),
    )


@pytest.mark.parametrize("bucket", [False, True])
def test_what_fits_into_the_start_goes_with_it(bucket: bool) -> None:
    parcel = pack(job(1000), bucket=bucket)
    assert not parcel.parts
    assert not parcel.by_bucket
    assert way_words(parcel, "mine") == "inline"
    assert way_row(parcel)["transport"] == "inline"
    assert parcel.order(60).work_s == 0


def test_without_a_bucket_the_time_is_told_and_a_long_one_with_the_advice() -> None:
    short = pack(job(300_000))
    assert way_words(short, "") == "10 sends of content first, about 9 s"
    assert bucket_advice(short) == ""
    long = pack(job(3_000_000))
    assert way_words(long, "") == "91 sends of content first, about 1 min 09 s"
    assert "--bucket NAME" in bucket_advice(long)
    assert way_row(long) == {
        "bytes": len(long.data),
        "transport": "parts",
        "parts": 91,
        "seconds": 69.0,
    }


def test_with_a_bucket_the_start_carries_an_address_and_stays_small() -> None:
    parcel = pack(job(300_000, 50), bucket=True)
    assert way_words(parcel, "mine") == "through bucket mine"
    assert bucket_advice(parcel) == ""
    order = parcel.order(60, URL)
    assert order.call.bundle.source == URL
    assert order.call.bundle.parts == len(parcel.parts) == -(-len(parcel.data) // PART_BYTES)
    # Where there is no way to the bucket, four tries of curl end before the agent ends them.
    assert order.work_s >= 4 * 10 + 7
    assert URL not in repr(order)
    assert URL not in order.comment
    rows = {f"i-{number:017x}": "0 10 0 2400 0.1:0" for number in range(50)}
    call = Call("start", order.call.arguments, 0, rows, order.call.bundle)
    assert len(render(call)) < SEND_LIMIT_CHARS / 2


def test_the_estimate_knows_that_polls_share_their_pace() -> None:
    assert sending_s(0, 50) == 0
    assert sending_s(1, 50) == sending_s(4, 50) == 3.0
    assert sending_s(5, 50) == 6.0
    # 40 commands at a time, 2.5 of which are looked at in a second.
    assert sending_s(4, 500) == 16.0
    assert sending_s(8, 3, round_trip_s=5.0) == 10.0


def test_what_is_too_large_for_parts_needs_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "MOST_BUNDLE_BYTES", 100_000)
    with pytest.raises(UsageProblem, match="can travel through SSM") as caught:
        pack(job(200_000))
    assert "--bucket" in caught.value.hint
    parcel = pack(job(200_000), bucket=True)
    assert parcel.by_bucket
    assert not parcel.parts
    assert parcel.start.parts == 7


def test_an_instance_that_is_silent_for_a_whole_order_is_not_sent_the_other_parts() -> None:
    parcel = pack(job(300_000))
    here, away, _ = (host.instance_id for host in parcel.job.hosts)
    sent: list[list[str]] = []

    def ask_all(
        orders: Iterable[tuple[Order, Sequence[str]]], *, together: int
    ) -> Iterator[tuple[int, Reply]]:
        for number, (_, ids) in enumerate(orders):
            sent.append(list(ids))
            for key in ids:
                answer = Answer(more=False, facts={"stored": ""})
                late = Reply(key, None, "no answer in time", silent=True)
                yield number, late if key == away else Reply(key, answer)
        assert together > 1

    fleet = cast("Any", SimpleNamespace(remote=SimpleNamespace(ask_all=ask_all)))
    only = [here, away]
    parts: list[tuple[int, int]] = []
    problems = submit.upload(
        fleet,
        parcel,
        on_part=lambda *done: parts.append(done),
        deliver_timeout_s=60,
        only=only,
    )
    assert problems == {away: "no answer in time"}
    assert sent == [only, *([[here]] * (len(parcel.parts) - 1))]
    assert parts[-1] == (len(parcel.parts), len(parcel.parts))
