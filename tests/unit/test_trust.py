"""Root of one instance cannot make the tasks of others succeed: twenty forgeries, both settings."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.jobs.mirror import Backup
from poormanray.jobs.outcome import outcomes, verdict
from poormanray.jobs.track import Contact, Track
from poormanray.jobs.trust import vouch
from poormanray.ledger import TaskState
from poormanray.manifest import Host
from tests.support.tracks import line

# Three instances with four tasks each; the second one lies. Tasks of the others fail.
SHARES = ((0, 3, 6, 9), (1, 4, 7, 10), (2, 5, 8, 11))
LIAR = 1
NAMES = {task: str(task) for share in SHARES for task in share}


def ended(task: int, attempt: int, code: int) -> list[str]:
    return [f"S 1.0 {task} {attempt} 0 5 5 b", f"E 2.0 {task} {attempt} {code} exit 1.0 0"]


def won(task: int, attempt: int = 1) -> list[str]:
    return ended(task, attempt, 0)


# By name: events that the liar adds to its ledger, and words that it adds to its records.
FORGERIES: Mapping[str, tuple[list[str], list[str]]] = {
    "ends of others": ([*won(0), *won(8)], []),
    "adopts what it was not given": (["A 1.0 0.1,8.1", *won(0), *won(8)], []),
    "adopts the next attempt": (["A 1.0 0.2,8.2", *won(0, 2), *won(8, 2)], []),
    "adopts a late attempt": (["A 1.0 0.1000,8.1000", *won(0, 1000), *won(8, 1000)], []),
    "gives to itself": (["A 1.0 0.1", "G 1.1 1 0.1", "A 1.2 0.1", *won(0)], []),
    "gives what others have to others": (["A 1.0 0.1", "G 1.1 2 0.1", *won(0)], []),
    "a chain of turns": (["A 1.0 0.1", *ended(0, 1, 1), "A 3.0 0.2", *won(0, 2)], []),
    "turns of a task that was never there": (["A 1.0 8.1,8.2,8.3", *won(8, 3)], []),
    "an end before the adoption": ([*won(0), "A 3.0 0.1", *won(0)], []),
    "a start by another runner": (
        ["J 1.0 runner-started 4 root screen b", "A 1.1 8.1", *won(8)],
        [],
    ),
    "everything at once": ([f"A 1.0 {n}.{m}" for n in NAMES for m in (1, 2)] + won(0, 2), []),
    "ends on record": ([], ["0/0-11/", "2/0-11/"]),
    "later ends on record": ([], ["0//0.2.0.S,3.3.0.S", "2//8.2.0.S"]),
    "a move on record": (["A 1.0 0.1,8.1", *won(0), *won(8)], ["0>1/0.1", "2>1/8.1"]),
    "a loss on record": (["A 1.0 0.2,8.2", *won(0, 2), *won(8, 2)], ["0=1/0.2", "2=1/8.2"]),
    "a move to another on record": ([], ["0>2/0.1", "2>0/8.1", "0=2/0.2", "2=0/8.2"]),
    "moves from itself on record": (["A 1.0 0.1", *won(0)], ["1>1/0.1", "1=1/0.2"]),
    "a move of all": (
        [f"A 1.0 {n}.1" for n in NAMES] + [one for n in NAMES for one in won(n)],
        [f"{home}>1/{n}.1" for home, share in enumerate(SHARES) for n in share],
    ),
    "ends of its own that never were": ([*won(0, 2)], ["1/0-11/"]),
    "damaged words": (["A 1.0 0.1", "G 1.0 x 0.1", *won(0)], ["0>/0.1", "=1/0.1", "0/99999999-/"]),
}


def told(liar_events: list[str], lost: int | None) -> list[Track]:
    tracks = []
    for index, share in enumerate(SHARES):
        track = Track(Host(index, f"i-{index}", f"c-{index}", share))
        events = [text for task in share for text in ended(task, 1, int(index != LIAR))]
        events += liar_events if index == LIAR else []
        if index == lost:
            # Nobody has read what it had.
            track.contact, track.problem = Contact.LOST, "it is terminated"
        else:
            track.log.feed(0, b"".join(map(line, events)))
        tracks.append(track)
    return tracks


def book(words: list[str]) -> Backup:
    found = Backup()
    data = b"".join(map(line, words))
    found.feed(0, data, len(data))
    return found


def succeeded(
    events: list[str], words: list[str], lost: int | None, *, trust: bool
) -> dict[int, str]:
    """Return which tasks of the others are said to have succeeded, and by whose word."""
    tracks = told(events, lost)
    vouch(tracks, {f"i-{LIAR}": book(words), "i-0": book([]), "i-2": book([])}, trust_ends=trust)
    found = outcomes(tracks, NAMES)
    good = {one.task: one.confirmed for one in found if one.state is TaskState.SUCCEEDED}
    if not good.keys() >= NAMES.keys():
        assert verdict(found, len(NAMES)).code != 0
    return {task: word for task, word in good.items() if task not in SHARES[LIAR]}


@pytest.mark.parametrize("trust", [True, False], ids=["trusts", "trusts-no-backup"])
@pytest.mark.parametrize("lost", [None, 0, 2], ids=["all-there", "its-ward-lost", "other-lost"])
@pytest.mark.parametrize("name", FORGERIES)
def test_no_forgery_makes_the_tasks_of_others_succeed(
    name: str, lost: int | None, *, trust: bool
) -> None:
    assert len(FORGERIES) == 20
    good = succeeded(*FORGERIES[name], lost, trust=trust)
    if trust and lost == 0:
        # It was chosen to hold that backup: its word on the first instance counts, and is shown.
        assert set(good.values()) <= {"backup"}
        assert good.keys() <= {*SHARES[0]}
    else:
        assert not good


TASKS = st.sampled_from([0, 3, 8, 5])
ATTEMPTS = st.integers(1, 4)
EVENTS = st.one_of(
    st.builds(lambda t, a: f"A 1.0 {t}.{a}", TASKS, ATTEMPTS),
    st.builds(lambda h, t, a: f"G 1.0 {h} {t}.{a}", st.integers(0, 3), TASKS, ATTEMPTS),
    st.builds(lambda t, a: won(t, a)[0], TASKS, ATTEMPTS),
    st.builds(lambda t, a, c: ended(t, a, c)[1], TASKS, ATTEMPTS, st.integers(0, 1)),
)
WORDS = st.builds(
    lambda s, mark, h, t, a: f"{s}{mark}{h}/{t}.{a}" if mark else f"{s}//{t}.{a}.0.S",
    st.integers(0, 3),
    st.sampled_from(["", ">", "="]),
    st.integers(0, 3),
    TASKS,
    ATTEMPTS,
)


@settings(max_examples=200)
@given(
    st.lists(EVENTS, max_size=20),
    st.lists(WORDS, max_size=8),
    st.sampled_from([None, 0, 2]),
    st.booleans(),
)
def test_nothing_that_one_instance_writes_makes_them_succeed(
    events: list[str], words: list[str], lost: int | None, trust: bool
) -> None:
    good = succeeded(events, words, lost, trust=trust)
    assert not good or (trust and lost == 0 and set(good.values()) == {"backup"})
