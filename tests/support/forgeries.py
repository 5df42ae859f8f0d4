"""Ledgers and backups as a liar writes them."""

from __future__ import annotations

from collections.abc import Mapping

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
