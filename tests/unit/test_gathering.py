"""Outputs in answers: put together from pieces in any state, and only as the instance told."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from poormanray.envelope import Answer, Chunk
from poormanray.jobs.outputs import DAMAGED, INLINE_BYTES, Gathered, Gatherer, inline_s
from poormanray.jobs.pack import Store
from poormanray.remote import Order, Reply

if TYPE_CHECKING:
    from poormanray.jobs.fleet import Fleet

ME = "i-0123456789abcdef0"
DATA = os.urandom(100_000)
CONTENT = b"f 3.1 644 1 %d\na%b.\n" % (len(DATA), DATA)


@dataclass
class Instance:
    """An instance with one pack, and a remote that asks it."""

    pack: bytes = gzip.compress(CONTENT)
    facts: dict[str, str] = field(default_factory=dict)
    short: int = 1 << 20
    failing: int = 0
    reads: int = 0

    def __post_init__(self) -> None:
        self.facts = {
            "found": f"1 {len(DATA)}",
            "size": str(len(self.pack)),
            "digest": f"{hashlib.sha256(self.pack).hexdigest()}  -",
            **self.facts,
        }

    def ask(self, order: Order, ids: Sequence[str]) -> Iterator[Reply]:
        assert (order.call.verb, list(ids)) == ("outputs", [ME])
        yield Reply(ME, Answer(more=False, facts=self.facts))

    def ask_all(self, orders: Sequence[tuple[Order, Sequence[str]]]) -> Iterator[tuple[int, Reply]]:
        # The last that was asked for comes first.
        for number, (order, _) in reversed(list(enumerate(orders))):
            self.reads += 1
            name, start, count = order.rows[ME].split(" ")[-1].split(":")
            assert name == "@pack"
            if self.failing > 0:
                self.failing -= 1
                yield number, Reply(ME, None, "no answer in time")
                continue
            end = int(start) + min(int(count), self.short)
            chunk = Chunk(name, int(start), self.pack[int(start) : end], len(self.pack))
            yield number, Reply(ME, Answer(more=False, records=(chunk,)))


def gathered(instance: Instance, folder: Path) -> Gathered:
    fleet = cast("Fleet", SimpleNamespace(remote=instance, ready_ids=[ME]))
    keys = {ME: frozenset({"3.1"})}
    return Gatherer(fleet, "1ng8md2c5pz", "*", keys, Store(folder), lambda _text: None).gather("")


@pytest.mark.parametrize("instance", [Instance(), Instance(short=999), Instance(failing=3)])
def test_pieces_make_the_whole(tmp_path: Path, instance: Instance) -> None:
    assert gathered(instance, tmp_path).problems == {}
    assert (tmp_path / "3/a").read_bytes() == DATA
    assert instance.reads >= len(instance.pack) // 13_500


def test_an_instance_that_falls_silent_is_given_up(tmp_path: Path) -> None:
    assert gathered(Instance(failing=99), tmp_path).problems == {ME: "no answer in time"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "facts",
    [
        {"found": "1"},
        {"found": "1 2 3"},
        {"found": f"1 {10**18}"},
        {"found": ""},
        {"size": "-1"},
        {"size": ""},
        {"digest": "0"},
    ],
)
def test_an_answer_of_no_sense_is_damage(tmp_path: Path, facts: dict[str, str]) -> None:
    assert gathered(Instance(facts=facts), tmp_path).problems == {ME: "its answer is damaged"}


def test_another_pack_than_was_spoken_of_is_not_taken(tmp_path: Path) -> None:
    done = gathered(Instance(facts={"digest": "0" * 64 + "  -"}), tmp_path)
    assert done.problems == {ME: DAMAGED}
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_promises_more_than_it_brings_ends(tmp_path: Path) -> None:
    done = gathered(Instance(facts={"size": str(INLINE_BYTES)}), tmp_path)
    assert done.problems == {ME: DAMAGED}


def test_what_is_too_large_is_told_and_not_read(tmp_path: Path) -> None:
    for facts in ({"found": f"2 {INLINE_BYTES + 1}"}, {"size": str(3 * INLINE_BYTES)}):
        instance = Instance(facts=facts)
        done = gathered(instance, tmp_path)
        assert list(done.too_large) == [ME]
        assert (done.problems, instance.reads) == ({}, 0)
    assert inline_s(1 << 30) > 10_000


def test_too_many_files_are_told_and_not_read(tmp_path: Path) -> None:
    done = gathered(instance := Instance(facts={"found": "20001 5"}), tmp_path)
    assert done.problems[ME].startswith("20001 files match, and 20000 can come at a time")
    assert instance.reads == 0


def test_a_refusal_is_told_with_what_the_instance_said(tmp_path: Path) -> None:
    said = base64.b64encode(b"first\ncurl: (22) error: 404\n").decode()
    done = gathered(Instance(facts={"refused": "give", "stderr": said}), tmp_path)
    assert done.problems[ME].endswith("into the bucket: curl: (22) error: 404")
    done = gathered(Instance(facts={"refused": "give", "stderr": "no base64!"}), tmp_path)
    assert done.problems[ME].endswith("into the bucket")
