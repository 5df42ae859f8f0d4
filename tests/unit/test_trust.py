"""Root of one instance cannot make the tasks of others succeed: twenty forgeries, both settings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.jobs.mirror import Backup
from poormanray.jobs.outcome import outcomes, verdict
from poormanray.jobs.track import Contact, Track
from poormanray.jobs.trust import vouch
from poormanray.ledger import TaskState
from poormanray.manifest import Host
from tests.support.forgeries import FORGERIES, LIAR, NAMES, SHARES, ended, won
from tests.support.tracks import line


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
