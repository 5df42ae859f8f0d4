"""Whatever an instance answers: an error of ours or sound data, in bounded time and memory."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.cli.output import Output
from poormanray.cli.watching import Watcher, outcome_row
from poormanray.envelope import MOST_RECORDS, Condensed, EnvelopeError, decode, encode
from poormanray.errors import ExitCode, NotFound, NotReached
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.follow import Follower
from poormanray.jobs.listing import MANIFEST, META, find, find_with_events, list_jobs, load, resolve
from poormanray.jobs.logs import LogCursor
from poormanray.jobs.outcome import verdict
from poormanray.jobs.track import Contact, LogText, Track, Wanted
from poormanray.ledger import TaskState
from poormanray.manifest import Host, Job, Task, encode_sections
from poormanray.model import Instance, InstanceState, Invocation, InvocationStatus
from poormanray.remote import Remote
from poormanray.waiting import Clock
from tests.support.tracks import line, outcomes_of

JOB, OTHER = "0123456789a", "9876543210z"
ME, YOU = "i-1", "i-2"
HOSTS = (Host(0, ME, "c-0000", (0, 2)), Host(1, YOU, "c-0001", (1,)))
MOST_SENDS = 300


@dataclass(slots=True)
class Ssm:
    """Stands where the adapter of SSM stands: instances answer what they like, for ever."""

    answers: dict[str, list[str]]
    now_s: float = 0.0
    sends: list[Sequence[str]] = field(default_factory=list)

    def clock(self) -> Clock:
        return Clock(1.0, lambda: self.now_s, self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, 0.001)
        assert self.now_s < 1e5, "it never ends"

    def server_time_s(self) -> float:
        return self.now_s

    def send(self, *, instance_ids: Sequence[str], **_: object) -> str:
        self.sends.append(instance_ids)
        assert len(self.sends) < MOST_SENDS, "it asks without end"
        return str(len(self.sends) - 1)

    def invocations(self, command_id: str) -> list[Invocation]:
        return [self.invocation(command_id, one) for one in self.sends[int(command_id)]]

    def invocation(self, command_id: str, instance_id: str) -> Invocation:
        said = self.answers[instance_id]
        output = said[int(command_id) % len(said)]
        return Invocation(instance_id, InvocationStatus.DONE, "Success", 0, output)

    def remote(self) -> Remote:
        return Remote(cast("Any", self), self.clock())

    def fleet(self) -> Fleet:
        ready = tuple(
            Instance(k, k, "c", n, InstanceState.RUNNING) for n, k in enumerate(self.answers)
        )
        return Fleet(cast("Any", None), self.remote(), "c", ready, ())


def said(*records: bytes) -> str:
    return encode(b"".join(records), more=False)


def chunk(name: str, offset: int, data: bytes, size: int | None = None) -> bytes:
    total = offset + len(data) if size is None else size
    return b"l %s %d %d %d\n%s" % (name.encode(), offset, len(data), total, data)


def part(offset: int, data: bytes, size: int | None = None) -> bytes:
    """Return events, and the fact how many bytes of them there are."""
    total = offset + len(data) if size is None else size
    return b"k events %d\ne %d %d\n%s" % (total, offset, len(data), data)


numbers = st.sampled_from([b"0", b"1", b"2", b"7", b"-1", b"999999999", b"9" * 18, b"9" * 40, b"x"])
names = st.sampled_from([b"0.1", b"1.1", b"2.1", b"@meta", b"../../x", b"0.999999", b"", b"0.1\0"])
texts = st.sampled_from(
    [
        b"runner done",
        b"refused \x1b]52;c;eA==\x07",
        b"events 999999999",
        b"window busy",
        b"events x",
    ]
)
events = st.builds(
    lambda *words: line(b" ".join(words).decode()),
    st.sampled_from([b"S", b"E", b"J", b"Z"]),
    st.sampled_from([b"1.0", b"99999999999.9", b"1e9", b"nan", b"-1"]),
    numbers | st.just(b"runner-lost"),
    numbers,
    st.sampled_from([b"0", b"-", b"255", b"256", b"99999", b"1e9"]),
    st.sampled_from([b"exit", b"lost", b"\x1b[2J", b"x" * 9000]),
    numbers,
)
short = st.one_of(
    numbers.map(lambda task: task + b"\n"),
    st.builds(lambda *words: b" ".join(words) + b"\n", *[numbers] * 3),
    events.map(lambda event: b"=" + event.rpartition(b" ")[0] + b"\n"),
    st.binary(max_size=40),
)


several = st.lists(numbers, max_size=3).map(lambda some: b" ".join(some) + b"\n")


def condensed(offset: int, end: bytes, told: list[bytes], times: bytes, total: bytes) -> bytes:
    """Return events told shortly."""
    data = times + b"".join(told)
    return b"c %d %s %d%s\n%s" % (offset, end, len(data), total, data)


records = st.one_of(
    st.builds(
        condensed,
        st.integers(0, 9),
        numbers,
        st.lists(short, max_size=5),
        st.builds(lambda *three: b"".join(three), several, several, several),
        st.just(b"") | numbers.map(lambda number: b" " + number),
    ),
    st.builds(b"k %s\n".__mod__, texts),
    st.builds(
        lambda n, o, d, s: chunk(n.decode(), o, d, s),
        names,
        st.integers(0, 99),
        st.binary(max_size=40),
        st.integers(0, 10**17),
    ),
    st.builds(lambda o, d: part(o, b"".join(d)), st.integers(0, 99), st.lists(events, max_size=5)),
    st.builds(lambda *words: b"h %s %s %s\n" % words, names, numbers, numbers),
    st.builds(lambda *words: b"t %s %s %s\n" % words, names, numbers, numbers),
    st.builds(lambda n, d: b"j %s %d\n%s" % (n, len(d), d), names, st.binary(max_size=40)),
    st.binary(max_size=20),
)
answers = st.one_of(
    st.lists(records, max_size=6).map(lambda some: said(*some)),
    st.lists(events, max_size=6).map(lambda some: said(part(0, b"".join(some)))),
    st.text(max_size=40),
)


def followed(ssm: Ssm, wanted: Wanted, *, again: bool = True) -> tuple[Follower, dict[str, bytes]]:
    """Follow the job to its end; return what was read of logs, by instance and log."""
    follower = Follower(
        JOB,
        [Track(host) for host in HOSTS],
        wanted,
        remote=ssm.remote(),
        clock=ssm.clock(),
        states=lambda ids: dict.fromkeys(ids, (InstanceState.RUNNING, "")),
        timeout_s=90.0 if again else 1000.0,
    )
    read: dict[str, bytes] = {}
    watcher = Watcher(Output(json=True))
    for happening in follower.run():
        watcher.show(happening)
        if isinstance(happening, LogText):
            key = f"{happening.host.instance_id} {happening.key}"
            read[key] = read.get(key, b"") + happening.data
    json.dumps(
        [outcome_row(one) for one in outcomes_of(follower.tracks.values())],
        default=str,
    )
    return follower, read


@settings(max_examples=100)
@given(mine=st.lists(answers, min_size=1, max_size=4), live=st.booleans())
def test_following_a_liar_ends_without_an_error(mine: list[str], live: bool) -> None:
    honest = said(part(0, line("E 2.0 1 1 0 exit 1.0 0")), chunk("1.1", 0, b"true\n"))
    ssm = Ssm({ME: mine, YOU: [honest]})
    follower, read = followed(ssm, Wanted(lambda _task: True, live=live))
    assert follower.tracks[YOU].status(1).state is TaskState.SUCCEEDED
    assert read[f"{YOU} 1.1"] == b"true\n"
    assert not any(key.startswith(f"{ME} 1.") for key in read)
    assert set(follower.tracks[ME].log.newest) <= {0, 2}


def test_what_is_no_answer_is_damaged_and_exit_code_4() -> None:
    done = said(part(0, line("E 2.0 1 1 0 exit 1.0 0")))
    follower, _ = followed(Ssm({ME: ["<html>502</html>"], YOU: [done]}), Wanted(), again=False)
    assert follower.tracks[ME].contact is Contact.SILENT
    assert "its answer is damaged" in follower.tracks[ME].problem
    assert verdict(outcomes_of(follower.tracks.values()), 3).code == ExitCode.NOT_REACHED


@pytest.mark.parametrize(
    ("lack", "why"),
    [
        ("PMR0 missing gzip\n", "it has no gzip: install it (package gzip)"),
        ("PMR0 bash 4.1\n", "its bash is 4.1: install bash 4.2 or newer"),
    ],
)
@pytest.mark.parametrize("live", [False, True])
def test_what_an_instance_lacks_is_named_at_once(
    lack: str, why: str, live: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    done = said(part(0, line("E 2.0 1 1 0 exit 1.0 0")))
    ssm = Ssm({ME: [lack], YOU: [done]})
    follower, _ = followed(ssm, Wanted(live=live))
    assert why in follower.tracks[ME].problem
    assert verdict(outcomes_of(follower.tracks.values()), 3).code == ExitCode.NOT_REACHED
    # It is not asked again and again for what it cannot do.
    assert sum(ME in ids for ids in ssm.sends) < 9
    assert why in capfd.readouterr().err


@pytest.mark.parametrize("damage", ["PMR0 missing\n", "PMR0 missing $(x)\n", "PMR0 bash\n", "PMR0"])
def test_what_is_no_such_line_is_damage(damage: str) -> None:
    with pytest.raises(EnvelopeError):
        decode(damage)


@pytest.mark.parametrize(
    "lie",
    [
        said(part(0, b"", 10**17)),
        said(part(0, b"\n", 10**17)),
        said(part(0, b"not a whole line", 10**17)),
        said(part(0, line("S 1.0 0 1 0 1 1 b")), chunk("0.1", 0, b"", 10**17)),
        said(part(0, line("S 1.0 0 1 0 1 1 b")), chunk("0.1", 0, b"x", 10**17)),
        said(part(0, line("S 1.0 0 1 0 1 1 b"))),
        said(part(0, line("S 1.0 0 1 0 1 1 b")), b"h 0.1 0 10\n" + chunk("0.1", 10, b"x", 10**17)),
    ],
    ids=["none", "empty line", "half a line", "no log", "little log", "left out", "hole"],
)
def test_promises_without_end_come_to_an_end(lie: str) -> None:
    done = said(part(0, line("E 2.0 1 1 0 exit 1.0 0")), chunk("1.1", 0, b"true\n"))
    wanted = Wanted(lambda _task: True, live=False)
    follower, _ = followed(Ssm({ME: [lie], YOU: [done]}), wanted, again=False)
    assert follower.tracks[YOU].problem == ""


def test_nobody_tells_of_the_tasks_of_others() -> None:
    forged = line("E 2.0 1 1 0 exit 1.0 0") + line("E 2.0 7 1 0 exit 1.0 0")
    mine = said(part(0, forged), chunk("1.1", 0, b"forged\n"))
    yours = said(part(0, line("E 2.0 1 1 3 exit 1.0 0")), chunk("1.1", 0, b"true\n"))
    wanted = Wanted(lambda _task: True, live=False)
    follower, read = followed(Ssm({ME: [mine], YOU: [yours]}), wanted)
    assert read == {f"{YOU} 1.1": b"true\n"}
    assert follower.tracks[ME].log.damaged_lines == 2
    assert [o.status.exit_code for o in outcomes_of(follower.tracks.values())] == [None, 3, None]


def test_more_records_than_asked_for_are_refused() -> None:
    with pytest.raises(EnvelopeError, match="more records"):
        decode(said(*[chunk("0.1", 0, b"")] * (MOST_RECORDS + 1)))


@given(st.lists(st.tuples(st.integers(0, 10**17), st.binary(max_size=9)), max_size=60))
def test_a_cursor_keeps_nothing_that_was_not_asked_for(found: list[tuple[int, bytes]]) -> None:
    cursor = LogCursor("0.1")
    for offset, data in found:
        (record,) = decode(said(chunk("0.1", offset, data, 10**17))).records
        cursor.receive(record)
        assert not cursor.parts


# --- which jobs there are ---------------------------------------------------------------------


def sections(job_id: str = JOB, cluster: str = "c") -> dict[str, bytes]:
    tasks = tuple(Task(number, name, 0) for number, name in enumerate("abc"))
    job = Job(job_id, "map", cluster, "r", HOSTS, tasks, (b"x",))
    return dict(encode_sections(job))


def told(meta: bytes, manifest: bytes) -> list[str]:
    return [said(chunk(META, 0, meta), chunk(MANIFEST, 0, manifest))]


def honest(job_id: str = JOB, cluster: str = "c") -> list[str]:
    parts = sections(job_id, cluster)
    return told(parts["meta"], parts["manifest"])


def listed(job_id: str, meta: bytes) -> list[str]:
    return [said(b"j %s %d\n%s" % (job_id.encode(), len(meta), meta))]


def lies() -> Iterator[list[str]]:
    """Yield answers about a job that are not sound."""
    parts = sections()
    meta, manifest = parts["meta"], parts["manifest"]
    yield told(sections(OTHER)["meta"], manifest)
    yield told(b"", b"")
    yield told(meta, b"H 0 i-1 = 0\n")
    yield told(meta, manifest.replace(b"Q i-1 0-2:2", b"Q i-1 0-999999999"))
    yield [said(chunk(META, 0, meta), chunk(MANIFEST, 0, b"T", 10**17))]
    yield [said(chunk(META, 10**17, meta, 10**18))]
    yield [said(b"k nothing here\n")]


@pytest.mark.parametrize("lie", [*lies()])
def test_a_liar_does_not_hide_a_job(lie: list[str]) -> None:
    known = load(Ssm({ME: lie, YOU: honest()}).fleet(), JOB)
    assert known.manifest.hosts == HOSTS
    assert known.holders == {YOU}
    assert "damaged" in known.problems[ME]
    with pytest.raises(NotReached, match=r"no instance t(old of|ells sound things of) job"):
        load(Ssm({ME: lie}).fleet(), JOB)


@pytest.mark.parametrize("lie", [*lies()])
@pytest.mark.parametrize("named", [b"", b"k job " + JOB.encode() + b"\n"])
@pytest.mark.parametrize("reference", [JOB, "last"])
def test_a_liar_does_not_hide_what_has_happened(
    lie: list[str], named: bytes, reference: str
) -> None:
    parts, event = sections(), line("E 2.0 1 1 0 exit 1.0 0")
    what = chunk(META, 0, parts["meta"]) + chunk(MANIFEST, 0, parts["manifest"])
    sound = said(b"k job " + JOB.encode() + b"\n", part(0, event), what)
    ssm = Ssm({ME: [said(named, decoded(lie[0])), *lie], YOU: [sound]})
    known = find_with_events(ssm.fleet(), reference)
    assert known.manifest.hosts == HOSTS
    assert known.holders == known.told.keys() == {YOU}
    assert "damaged" in known.problems[ME]
    log = Track(HOSTS[1]).log
    assert log.read(known.told[YOU].events or Condensed(0, 0, b""))[0].task == 1


def decoded(envelope: str) -> bytes:
    """Return the body of an envelope."""
    return gzip.decompress(base64.b64decode(envelope.split()[4]))


def test_a_job_of_another_cluster_is_refused() -> None:
    with pytest.raises(NotFound, match="it is one of cluster other"):
        load(Ssm({ME: honest(cluster="other")}).fleet(), JOB)
    found, problems = list_jobs(Ssm({ME: listed(JOB, sections(cluster="other")["meta"])}).fleet())
    assert (found, problems) == ([], {})


@pytest.mark.parametrize(
    ("job_id", "meta"),
    [
        ("../../../tmp", sections("../../../tmp")["meta"]),
        (JOB, sections(OTHER)["meta"]),
        (JOB, b""),
        ("$(id)", sections("$(id)")["meta"]),
    ],
)
def test_a_forged_id_goes_nowhere(job_id: str, meta: bytes) -> None:
    told_ids = ((job_id, meta), (OTHER, sections(OTHER)["meta"]))
    own = sections(OTHER)["meta"] + b"queued=1\nsucceeded=1\nrunner=done\n"
    ssm = Ssm({ME: listed(job_id, meta), YOU: listed(OTHER, own)})
    found, problems = list_jobs(ssm.fleet())
    assert [job.summary.job_id for job in found] == [OTHER]
    assert "damaged" in problems[ME]
    manifest = chunk(MANIFEST, 0, sections(OTHER)["manifest"])
    named = [
        said(b"k job %s\n" % key.encode(), chunk(META, 0, what), manifest) for key, what in told_ids
    ]
    ssm = Ssm({ME: named[:1], YOU: named[1:]})
    assert resolve(ssm.fleet(), "last") == OTHER
    known = find(ssm.fleet(), "last")
    assert (known.summary.job_id, known.holders) == (OTHER, frozenset({YOU}))
    assert "damaged" in known.problems[ME]


@given(st.lists(records, max_size=5), st.binary(max_size=60))
def test_any_list_of_jobs_can_be_read(some: list[bytes], meta: bytes) -> None:
    whole = sections()["meta"] + meta
    lie = said(b"j %s %d\n%s" % (JOB.encode(), len(whole), whole), *some)
    found, _ = list_jobs(Ssm({ME: [lie]}).fleet())
    assert all(job.state for job in found)
    with contextlib.suppress(NotFound, NotReached):
        load(Ssm({ME: [lie]}).fleet(), JOB)
    named = said(b"k job %s\n" % JOB.encode(), *some)
    with contextlib.suppress(NotFound, NotReached):
        find_with_events(Ssm({ME: [named], YOU: honest()}).fleet(), "last")
