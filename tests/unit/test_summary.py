"""What instances tell of a job in a few words, put together: counts, rate, time left, skew."""

from __future__ import annotations

import base64
import resource
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.cli.output import Output
from poormanray.cli.status import show
from poormanray.jobs.outcome import outcomes, tracks_of
from poormanray.jobs.presence import Fate
from poormanray.jobs.summary import MOST_SHOWN, Overview, Share, merged, read_share
from poormanray.jobs.survey import looked_over
from poormanray.jobs.track import Contact
from poormanray.ledger import TaskState
from poormanray.manifest import Host, Job, JobSummary, Manifest, Task, decode_meta, encode_meta
from tests.support.tracks import line

JOB_ID = "1nge2n8b7ms"
P, R, S, F = TaskState.PENDING, TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.FAILED


def job(tasks: int = 10, hosts: int = 2) -> Job:
    return Job(
        job_id=JOB_ID,
        kind="map",
        cluster="c",
        region="us-east-1",
        hosts=tuple(Host(n, f"i-{n}", f"c-{n:04}", ()) for n in range(hosts)),
        tasks=tuple(Task(n, f"t{n}", 0) for n in range(tasks)),
        scripts=(b"",),
        timeout_s=60,
    )


def summary(tasks: int = 10, hosts: int = 2) -> JobSummary:
    return decode_meta(encode_meta(job(tasks, hosts)))


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def told(counts: Mapping[TaskState, int], **changes: object) -> bytes:
    """Return what summary.sh writes."""
    words: dict[str, object] = {f"n_{s.value.lower()}": counts.get(s, 0) for s in TaskState}
    words |= {"runner": "running", "slots_now": 2, "detached": "screen", "damaged": 0}
    words |= {"cancelled_job": 0, "first": 100_000_000, "last": 105_000_000, "now": 110_000_000}
    words |= {
        "ran": counts.get(S, 0) + counts.get(F, 0),
        "busy": 8_000_000,
        "under": 0,
        "spread": sum(counts.values()),
        **changes,
    }
    return encode_meta(job()) + "".join(f"{key}={word}\n" for key, word in words.items()).encode()


def share(number: int, counts: Mapping[TaskState, int], **changes: object) -> Share:
    _, found = read_share(f"i-{number}", f"c-{number:04}", JOB_ID, told(counts, **changes))
    return replace(found, host_index=number)


def whole(*shares: Share, tasks: int = 10) -> Overview:
    found = merged(summary(tasks, len(shares)), shares)
    assert found is not None
    return found


def test_what_an_instance_tells_is_read() -> None:
    words = {
        "slow0": f"3 1 1500000 {b64('three')}",
        "slow1": "4 2 1000000 -",
        "bad0": f"5 1 failed 7 exit 104000000 {b64('five.sh')} {b64('boom')}",
        "bad1": f"6 1 lost - rebooted 103000000 - {b64('x' * 30)}~",
    }
    known, found = read_share("i-0", "c-0000", JOB_ID, told({S: 3, F: 1, P: 2}, **words))
    assert (known.timeout_s, known.task_count) == (60, 10)
    assert (found.counts[S], found.counts[P], found.slots, found.detached_by) == (3, 2, 2, "screen")
    assert (found.first_s, found.now_s, found.ran, found.mean_s) == (100.0, 110.0, 4, 2.0)
    assert [(one.task, one.name, one.seconds) for one in found.slowest] == [
        (3, "three", 1.5),
        (4, "4", 1.0),
    ]
    first, second = found.failed
    assert (first.status.exit_code, first.name, first.last_line) == (7, "five.sh", "boom")
    assert (second.status.state, second.name) == (TaskState.LOST, "6")
    assert "rebooted" in second.why
    assert second.last_line == "x" * 30 + "…"


@pytest.mark.parametrize(
    "words",
    [
        {"n_pending": "many"},
        {"busy": "1e9"},
        {"slow0": "x 1 1 -"},
        {"slow0": "1 1"},
        {"bad0": "1 1 failed 999 exit 1 - ="},
        {"bad0": "1 1 sunk 1 exit 1 - ="},
        {"bad0": f"1 1 failed 1 exit 1 {'=' * 3}x ="},
        {"id": "1nge2n8b7mt"},
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        share(0, {S: 1}, **words)


def test_counts_add_up_and_what_moves_is_pending() -> None:
    found = whole(share(0, {S: 3, P: 2}, spread=7, gave="1:2"), share(1, {S: 2, F: 1}))
    assert (found.counts[S], found.counts[F], found.counts[P]) == (5, 1, 4)
    assert (found.total, found.failures, found.ended) == (10, 1, False)
    cancelled = whole(share(0, {S: 3}, spread=4, gave="1:1"), share(1, {S: 6}, cancelled_job=1))
    assert (cancelled.counts[TaskState.CANCELLED], cancelled.ended) == (1, True)


def test_what_nobody_has_and_nobody_gave_away_is_looked_at() -> None:
    assert merged(summary(), [share(0, {S: 5}), share(1, {S: 4})]) is None
    assert merged(summary(0, 1), [share(0, {})]) is None
    short = Overview(summary(3), (), {**dict.fromkeys(TaskState, 0), S: 2})
    assert (short.total, short.ended) == (3, False)


def test_what_is_told_twice_is_looked_at() -> None:
    moving = [share(0, {S: 3, P: 4}, spread=6), share(1, {S: 3, R: 1, P: 1}, spread=4)]
    assert merged(summary(), moving) is None
    several_attempts = [share(0, {F: 1, S: 5}, spread=5), share(1, {S: 5})]
    assert merged(summary(), several_attempts) is None


def test_who_counts_tasks_that_others_did_not_give_it_is_looked_at() -> None:
    gave = share(0, {S: 3, P: 1}, spread=5, gave="1:1")
    assert whole(gave, share(1, {S: 6}, spread=5)).counts[S] == 9
    # The third instance was to have it; meanwhile the second one claims it.
    to_third = share(0, {S: 3, P: 1}, spread=5, gave="2:1")
    third = share(2, {S: 2})
    assert merged(summary(10, 3), [to_third, share(1, {S: 4}, spread=3), third]) is None
    assert merged(summary(10, 3), [to_third, share(1, {S: 4}, spread=4), third]) is None
    assert merged(summary(10, 3), [to_third, share(1, {S: 3}), third]) is not None


def test_where_an_instance_does_not_tell_each_task_is_looked_at() -> None:
    there, joined = share(0, {S: 5}), share(2, {S: 5}, spread=-1)
    assert merged(summary(), [there, joined]) is None
    both = [there, share(1, {S: 2, P: 1}, spread=5, gave="2:2")]
    assert merged(summary(), [*both, share(2, {S: 2}, spread=-1)]) is not None
    # What is on its way to somebody who is there is pending; to nobody, it may be lost.
    gave = share(1, {S: 2, P: 1}, spread=5, gave="2:2")
    target = replace(joined, counts={**joined.counts, S: 1})
    found = merged(summary(), [there, gave, target])
    assert found is not None
    assert (found.total, found.counts[P]) == (10, 2)
    assert merged(summary(), [there, gave]) is None


def test_what_waits_behind_a_dead_runner_is_lost() -> None:
    found = whole(share(0, {S: 1, P: 4}, runner="dead"), share(1, {S: 5}))
    assert (found.counts[TaskState.LOST], found.counts[P], found.ended) == (4, 0, True)
    assert "runner has died" in found.shares[0].problem


def test_rate_time_left_and_use_of_slots() -> None:
    # 4 slots, 10 s: 8 tasks took 2 s each; two more run, for 1 s so far, and 6 wait.
    busy = {"busy": 8_000_000, "under": 1_000_000}
    found = whole(
        share(0, {S: 4, R: 1, P: 3}, **busy), share(1, {S: 4, R: 1, P: 3}, **busy), tasks=16
    )
    assert (found.rate, found.mean_s, found.span_s) == (0.8, 2.0, 10.0)
    assert found.utilisation == pytest.approx(18 / 40)
    assert found.eta_s == pytest.approx((6 * 2 + 2 * 1) / 4)
    done = whole(share(0, {S: 8}), share(1, {S: 8}), tasks=16)
    assert (done.eta_s, done.span_s, done.rate) == (None, 5.0, 16 / 5)
    nothing_yet = whole(share(0, {P: 5}, first=0, last=0), share(1, {P: 5}, first=0, last=0))
    assert (nothing_yet.rate, nothing_yet.eta_s, nothing_yet.utilisation) == (None, None, None)


def test_skew_is_an_instance_s_time_over_that_of_all() -> None:
    found = whole(share(0, {S: 4}, busy=4_000_000), share(1, {S: 6}, busy=16_000_000))
    slow, quick = found.shares[1], found.shares[0]
    assert found.skew(slow) == pytest.approx(16 / 6 / 2)
    assert found.skew(quick) == 0.5
    assert found.skew(replace(quick, ran=0)) is None


def test_a_slow_instance_does_less_of_what_is_left() -> None:
    even = whole(share(0, {S: 1, P: 4}, ran=4), share(1, {S: 1, P: 4}, ran=4))
    slower = whole(share(0, {S: 1, P: 4}, ran=4), share(1, {S: 1, P: 4}, ran=1))
    assert even.eta_s is not None
    assert slower.eta_s is not None
    assert slower.eta_s > even.eta_s


def test_a_look_at_every_task_says_the_same() -> None:
    hosts = (Host(0, "i-0", "c-0000", (0, 1)), Host(1, "i-1", "c-0001", (2,)))
    tracks = tracks_of(Manifest(hosts, {}), {"i-1": Fate(Contact.LOST, "it is gone")})
    tracks[0].log.feed(
        0,
        line("J 1.0 runner-started 2 root screen b")
        + line("S 10.0 0 1 0 7 5")
        + line("E 12.0 0 1 7 exit 10.0 0")
        + line("S 12.0 1 1 0 7 5"),
    )
    found = outcomes(tracks, {0: "a", 1: "1", 2: "2"})
    seen = looked_over(summary(3), tracks, found, now_s=20.0, lines={(0, 1): "boom"})
    assert (seen.counts[F], seen.counts[R], seen.counts[TaskState.LOST]) == (1, 1, 1)
    first, second = seen.shares
    assert (first.slots, first.ran, first.busy_s, first.under_s) == (2, 1, 2.0, 8.0)
    assert second.problem == "it is gone"
    assert [(one.name, one.last_line) for one in seen.failed] == [("a", "boom"), ("2", "")]
    assert [(one.task, one.seconds) for one in seen.slowest] == [(0, 2.0)]


counts = st.fixed_dictionaries({state: st.integers(0, 5) for state in TaskState})


@given(told_counts=st.lists(counts, min_size=1, max_size=5), missing=st.integers(0, 3))
def test_no_task_is_lost_or_doubled(told_counts: list[dict[TaskState, int]], missing: int) -> None:
    *others, last = told_counts
    gave = {"spread": sum(last.values()) + missing, "gave": f"0:{missing}"}
    shares = [share(n, each) for n, each in enumerate(others)]
    shares.append(share(len(others), last, **gave))
    total = sum(sum(each.values()) for each in told_counts) + missing
    found = merged(summary(total, len(shares)), shares)
    if not total:
        assert found is None
        return
    assert found is not None
    assert found.total == total == sum(found.counts.values())
    assert found.failures == sum(
        n for each in told_counts for s, n in each.items() if s.ended and s is not S
    )


def test_fifty_answers_for_a_hundred_thousand_tasks_cost_next_to_nothing() -> None:
    words = {f"slow{n}": f"{n} 1 {n}500000 {b64('a-task.sh')}" for n in range(5)}
    words |= {
        f"bad{n}": f"{n} 1 failed 1 exit {n} {b64('a-task.sh')} {b64('x' * 200)}" for n in range(5)
    }

    def cost_s(tasks: int) -> float:
        done = {S: tasks // 50 - 10, F: 10}
        answers = [told(done, **words) for _ in range(50)]
        whole_job = summary(tasks, 50)
        before_s = time.process_time()
        shares = [read_share(f"i-{n}", f"c-{n}", JOB_ID, data)[1] for n, data in enumerate(answers)]
        found = merged(whole_job, shares)
        cost_s = time.process_time() - before_s
        assert found is not None
        assert (found.total, len(found.failed), len(found.slowest)) == (tasks, MOST_SHOWN, 5)
        return cost_s

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # The number of tasks costs nothing: what each instance answers is as long.
    few_s, many_s = (min(cost_s(tasks) for _ in range(5)) for tasks in (1_000, 100_000))
    assert many_s < 5 * few_s
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 20_000


@pytest.mark.parametrize("height", [24, 40, 200])
@pytest.mark.parametrize("hosts", [1, 3, 50])
def test_what_is_shown_is_one_screen(
    height: int, hosts: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    words: dict[str, object] = {f"slow{n}": f"{n} 1 {n}500000 -" for n in range(5)}
    words |= {f"bad{n}": f"{n} 1 failed 1 exit {n} - {b64('x' * 200)}" for n in range(5)}
    shares = [share(n, {S: 1990, F: 10}, **words) for n in range(hosts)]
    out = Output()
    out.is_terminal = True
    show(out, whole(*shares, tasks=2000 * hosts), height)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < height
    assert ("more instances" in "".join(lines)) == (hosts > 3 and height < 200)
