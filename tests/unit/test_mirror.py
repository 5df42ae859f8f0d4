"""What has ended on one instance is remembered by another, whatever becomes of the looks."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.envelope import Answer
from poormanray.jobs.mirror import (
    MOST_CHARS,
    Backup,
    Mirrors,
    Move,
    backup_of,
    decode,
    decode_moves,
    encode,
    encode_moves,
    ring,
)
from poormanray.jobs.track import Contact, Track
from poormanray.jobs.trust import vouch
from poormanray.ledger import TaskState, TaskStatus
from poormanray.manifest import Host
from poormanray.remote import Reply
from tests.support.tracks import line, outcomes_of

LOST = Contact.LOST
STATUSES = st.lists(
    st.builds(
        TaskStatus,
        task=st.integers(0, 99_999),
        attempt=st.integers(1, 9),
        state=st.sampled_from([state for state in TaskState if state.ended]),
        exit_code=st.one_of(st.none(), st.integers(0, 255)),
    ).map(lambda one: replace(one, exit_code=0) if one.state is TaskState.SUCCEEDED else one),
    max_size=60,
    unique_by=lambda one: one.task,
)


def keys(statuses: list[TaskStatus]) -> set[tuple[int, int, TaskState, int | None]]:
    return {(one.task, one.attempt, one.state, one.exit_code) for one in statuses}


@given(STATUSES, st.integers(0, 2000))
def test_it_is_read_as_it_was_written(statuses: list[TaskStatus], host: int) -> None:
    told = decode(line(encode(host, statuses)))
    assert keys(told.get(host, [])) == keys(statuses)
    assert " " not in encode(host, statuses)


@given(st.binary(max_size=200), STATUSES)
def test_damaged_lines_say_nothing(noise: bytes, statuses: list[TaskStatus]) -> None:
    data = noise.replace(b"\n", b"") + b"\n" + line(encode(3, statuses))
    assert keys(decode(data).get(3, [])) >= keys(statuses)
    assert not decode(line(encode(3, statuses))[:-3])
    for word in ("1/0-999999999/", "1//5.1.0.X", "1//5.1.999.S", "1//5.5000.0.S", "x/1/", "1//5"):
        assert not any(decode(line(word)).values())


def look(mirrors: Mirrors, disks: dict[str, list[TaskStatus]], fate: str) -> None:
    """Let every instance be looked at once, and write down what it is told if it is taken."""
    for key, track in mirrors.tracks.items():
        if track.gone:
            continue
        word = mirrors.word_for(track)
        assert len(word) <= MOST_CHARS
        if word and fate == "taken":
            disks[key] += [one for some in decode(line(word)).values() for one in some]
        mirrors.answered(key, taken=fate == "taken")


@settings(max_examples=80)
@given(
    st.integers(2, 5),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 40)), max_size=12),
    st.lists(st.sampled_from(["taken", "lost"]), max_size=30),
    st.integers(0, 4),
)
def test_nothing_is_forgotten(
    count: int, ends: list[tuple[int, int]], fates: list[str], dies: int
) -> None:
    tracks = {f"i-{n}": Track(Host(n, f"i-{n}", f"c-{n}", (n,))) for n in range(count)}
    for track in tracks.values():
        track.looked = True
    mirrors = Mirrors(tracks)
    disks: dict[str, list[TaskStatus]] = {key: [] for key in tracks}
    number = 100
    wanted: dict[str, set[int]] = {key: set() for key in tracks}
    for at, size in ends:
        source = tracks[f"i-{at % count}"]
        for _ in range(size):
            number += 3
            mirrors.note(source, TaskStatus(number, 1 + number % 2, TaskState.FAILED, 1))
            wanted[source.host.instance_id].add(number)

    for fate in fates:
        look(mirrors, disks, fate)
    gone = tracks[f"i-{dies % count}"]
    gone.contact, gone.problem = Contact.LOST, "it is terminated"
    del disks[gone.host.instance_id]
    for _ in range(100):
        look(mirrors, disks, "taken")
    remembered = {one.task for disk in disks.values() for one in disk}
    alive = [key for key in tracks if key != gone.host.instance_id]
    if len(alive) > 1:
        assert remembered >= set().union(*wanted.values())
    else:
        # Nobody remembers for itself.
        assert remembered >= wanted[gone.host.instance_id]


def book(*words: str) -> Backup:
    found = Backup()
    data = b"".join(line(word) for word in words)
    found.feed(0, data, len(data))
    return found


def test_a_lost_instance_s_ends_are_known_from_another() -> None:
    gone = Track(Host(0, "i-0", "c-0", (0, 1, 2)), problem="it is terminated", contact=LOST)
    other = Track(Host(1, "i-1", "c-1", (3,)))
    done, failed = TaskStatus(0, 1, TaskState.SUCCEEDED, 0), TaskStatus(1, 2, TaskState.FAILED, 7)
    # Task 9 was never there.
    ends = [done, TaskStatus(1, 1, TaskState.FAILED, 7), failed]
    ends.append(TaskStatus(9, 1, TaskState.SUCCEEDED, 0))
    vouch([gone, other], {"i-1": book(encode(0, ends))})
    found = {one.task: (one.state, one.status.exit_code) for one in outcomes_of([gone, other])}
    assert found == {
        0: (TaskState.SUCCEEDED, 0),
        1: (TaskState.FAILED, 7),
        2: (TaskState.LOST, None),
        3: (TaskState.PENDING, None),
        9: (TaskState.LOST, None),
    }
    assert not other.log.tasks


def test_only_the_backup_that_was_chosen_has_a_word() -> None:
    for teller, state in (("i-1", TaskState.SUCCEEDED), ("i-2", TaskState.LOST)):
        gone = Track(Host(0, "i-0", "c-0", (0,)), problem="it is terminated", contact=LOST)
        others = [Track(Host(n, f"i-{n}", f"c-{n}", (n,))) for n in (1, 2)]
        told = {teller: book(encode(0, [TaskStatus(0, 1, TaskState.SUCCEEDED, 0)]))}
        vouch([gone, *others], told)
        assert outcomes_of([gone, *others])[0].state is state
    gone = Track(Host(0, "i-0", "c-0", (0,)), problem="it is terminated", contact=LOST)
    vouch([gone, *others], told, trust_ends=False)
    assert outcomes_of([gone, *others])[0].state is TaskState.LOST


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8),
    st.permutations(range(8)),
)
def test_all_find_the_same_backups(kinds: list[tuple[bool, bool]], order: list[int]) -> None:
    tracks = []
    for number, (joined, gone) in enumerate(kinds):
        tracks.append(
            Track(Host(number, f"i-{number}", f"c-{number}", () if joined else (number,)))
        )
        tracks[-1].contact = LOST if gone else Contact.OPEN
    shuffled = [tracks[number] for number in order if number < len(tracks)]
    chosen = ring(shuffled)
    for track in tracks:
        other = backup_of(track, tracks)
        assert chosen.get(track.host.instance_id) == (other.host.instance_id if other else None)
        assert other is None or not (other is track or other.gone)


MOVES = st.builds(
    Move,
    st.integers(0, 99),
    st.tuples(st.integers(0, 9999), st.integers(1, 9)),
    st.integers(0, 99),
    lost=st.booleans(),
)


@given(st.sets(MOVES, max_size=20), st.integers(1, 40))
def test_moves_are_read_as_they_were_written(moves: set[Move], piece: int) -> None:
    words = encode_moves(moves)
    assert " " not in words
    data = b"".join(line(word) for word in words.split(";") if word)
    assert set(decode_moves(data)) == moves
    found = Backup()
    for at in range(0, len(data), piece):
        assert not found.whole
        found.feed(at, data[at : at + piece], len(data))
    assert found.offset == len(data)
    firsts = {(one.source, one.key) for one in moves if one.lost}
    assert {one for one in found.moves if not one.lost} == {one for one in moves if not one.lost}
    assert len([one for one in found.moves if one.lost]) == len(firsts)


def test_only_the_request_that_carries_ends_confirms_them() -> None:
    tracks = {f"i-{n}": Track(Host(n, f"i-{n}", f"c-{n}", (n,)), looked=True) for n in range(2)}
    mirrors = Mirrors(tracks)
    mirrors.note(tracks["i-0"], TaskStatus(0, 1, TaskState.SUCCEEDED, 0))
    assert mirrors.word_for(tracks["i-1"], "queue")
    taken = Answer(more=False, facts={"mirrored": "1"})
    # A look that was sent before carried others.
    mirrors.heard(Reply("i-1", taken), "look")
    assert mirrors.unsaid("i-0")
    assert mirrors.on_record == []
    mirrors.heard(Reply("i-1", taken), "queue")
    assert not mirrors.unsaid("i-0")
    assert [key for key, _ in mirrors.on_record] == ["i-0"]
