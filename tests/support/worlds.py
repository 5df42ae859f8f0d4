"""Instances, clients and the moves between them, without any cloud."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from hypothesis import strategies as st

from poormanray.envelope import Answer, Chunk
from poormanray.events import checksum
from poormanray.jobs import again
from poormanray.jobs.mirror import MIRROR, Backup, Mirrors, decode_hosts, encode_hosts
from poormanray.jobs.moving import EVERY_S, Mover, Turns
from poormanray.jobs.track import Contact, Track
from poormanray.jobs.trust import vouch
from poormanray.ledger import decode_keys, encode_keys
from poormanray.manifest import Host
from tests.support.tracks import outcomes_of

EXAMPLES = int(os.environ.get("PMR_EXAMPLES", "150"))
FATES = st.sampled_from(["done", "done", "done", "lost", "unheard", "late"])


@dataclass
class Instance:
    """What shell/queue.sh and a runner with one slot do, without a shell."""

    index: int
    queue: list[tuple[int, int]]
    claims: set[tuple[int, int]] = field(default_factory=set)
    ran: list[tuple[int, int]] = field(default_factory=list)
    fails: frozenset[tuple[int, int]] = frozenset()
    events: bytes = b""
    mirror: bytes = b""
    sealed: set[int] = field(default_factory=set)
    alive: bool = True
    waits: bool = False
    interrupted: bool = False

    def event(self, text: str) -> None:
        self.events += f"{text} {checksum(text)}\n".encode()

    def order(self, row: str) -> Answer | None:
        if not self.alive:
            return None
        at, adopts, gives, lost, records, reads, *_ = row.split(" ")
        words = [word for word in records.split(";") if word != "-"]
        facts = {}
        for word in words:
            if "=" not in word and self.remember(word) and ">" not in word:
                facts["mirrored"] = "1"
        named = decode_hosts(lost)
        if lost == "*" or self.sealed <= named:
            self.sealed |= named
            for word in words:
                if "=" in word:
                    self.remember(word)
            self.move(adopts, gives)
        else:
            facts["refused"] = "sealed"
        facts["events"] = str(len(self.events))
        if self.sealed:
            facts["sealed"] = encode_hosts(self.sealed)
        offset = int(reads.partition(":")[2] or 0)
        book = Chunk(MIRROR, offset, self.mirror[offset:], len(self.mirror))
        events = Chunk("events", int(at), self.events[int(at) :], 0)
        return Answer(more=False, facts=facts, events=events, records=(book,))

    def remember(self, word: str) -> bool:
        head, _, rest = word.partition("/")
        if "=" in head:
            home = head.partition("=")[0]
            lines = [line.split(" ")[0] for line in self.mirror.decode().splitlines()]
            taken = {
                key
                for line in lines
                if line.partition("=")[0] == home
                for key in line.partition("/")[2].split(",")
            }
            rest = ",".join(key for key in rest.split(",") if key not in taken)
            if not rest:
                return False
            word = f"{head}/{rest}"
        elif int(head.partition(">")[0]) in self.sealed:
            return False
        self.mirror += f"{word} {checksum(word)}\n".encode()
        return True

    def move(self, adopts: str, gives: str) -> None:
        keys = decode_keys(adopts) if adopts not in "+-" else []
        new = [key for key in keys if key not in self.queue]
        if new:
            self.event(f"A 1.0 {encode_keys(new)}")
            self.queue += new
        for give in gives.split(",") if gives != "-" else []:
            host, _, words = give.partition(":")
            keys = [key for key in decode_keys(words.replace("/", ",")) if self.claim(key)]
            if keys:
                self.event(f"G 1.0 {host} {encode_keys(keys)}")
        self.waits &= adopts != "+"

    def claim(self, key: tuple[int, int]) -> bool:
        fresh = key not in self.claims
        self.claims.add(key)
        return fresh

    def interrupt(self) -> None:
        self.interrupted = True
        self.event("J 3.0 interrupted terminate 2026-11-25T18:02:00Z")

    def work(self) -> None:
        for key in self.queue:
            idle = self.waits or self.interrupted or not self.alive
            if not idle and self.claim(key):
                task, attempt = key
                self.ran.append(key)
                self.event(f"S 1.0 {task} {attempt} 0 5 5")
                self.event(f"E 2.0 {task} {attempt} {int(key in self.fails)} exit 1.0 0")
                return


@dataclass
class World:
    """Some instances, and clients that move their tasks."""

    instances: dict[str, Instance]
    mover: Mover
    now_s: float = 0.0
    late: list[tuple[str, str]] = field(default_factory=list)

    def look(self, mover: Mover | None = None) -> None:
        mover = mover or self.mover
        if mover.mirrors is None:
            mover.mirrors = Mirrors(mover.tracks)
        for key, track in mover.tracks.items():
            instance = self.instances[key]
            if not instance.alive:
                track.contact, track.problem = Contact.LOST, "it is terminated"
                continue
            track.looked, track.heard_at_s = True, self.now_s
            track.waits = instance.waits
            self.mirrored(mover, track, instance)
            self.read(mover, track, instance)

    def mirrored(self, mover: Mover, track: Track, instance: Instance) -> None:
        """Let an instance record what a look brings of another one's ends."""
        assert mover.mirrors is not None
        if word := mover.mirrors.word_for(track):
            taken = instance.remember(word)
            mover.mirrors.answered(track.host.instance_id, taken=taken, closed=instance.sealed)

    def read(self, mover: Mover, track: Track, instance: Instance) -> None:
        for status in track.log.feed(0, instance.events):
            mover.note(track, status, self.now_s)
            if mover.mirrors is not None:
                mover.mirrors.note(track, status)

    def sends(self, mover: Mover) -> dict[str, str]:
        """Return the rows of a client's next order."""
        for _ in mover.notice_lost(self.now_s):
            pass
        self.now_s += EVERY_S
        order = mover.order(self.now_s)
        return dict(order.rows) if order else {}

    def arrives(self, mover: Mover, key: str, row: str, *, heard: bool = True) -> None:
        """Let an order arrive, and the client hear of it or not."""
        answer = self.instances[key].order(row)
        track = mover.tracks[key]
        taken = heard and answer is not None and "mirrored" in answer.facts
        closed = decode_hosts(answer.facts.get("sealed", "")) if heard and answer else set()
        if mover.mirrors is not None:
            mover.mirrors.answered(key, taken=taken, closed=closed)
        if answer is not None and heard:
            self.read(mover, track, self.instances[key])
            mover.answered(track, answer)

    def move(self, fate: str) -> None:
        for key, row in self.sends(self.mover).items():
            if fate in ("done", "unheard"):
                self.arrives(self.mover, key, row, heard=fate == "done")
            elif self.mover.mirrors is not None:
                self.mover.mirrors.answered(key, taken=False)
                if fate == "late":
                    self.late.append((key, row))
        if fate != "unheard":
            self.look()

    def another_client(self) -> None:
        """Go on with a client that knows nothing but what the instances tell."""
        self.mover = self.client()

    def client(self) -> Mover:
        """Return a client that has just come, and read what the instances have on record."""
        tracks = {key: Track(track.host) for key, track in self.mover.tracks.items()}
        mover = Mover(self.mover.job_id, tracks, self.mover.turns)
        self.look(mover)
        vouch(tracks.values(), self.books())
        return mover

    def seen(self, key: str) -> Track:
        """Return what a client that is about to go on with the job reads of an instance."""
        track = Track(self.mover.tracks[key].host, looked=self.instances[key].alive)
        if self.instances[key].alive:
            track.log.feed(0, self.instances[key].events)
        else:
            track.contact, track.problem = Contact.LOST, "it is terminated"
        return track

    def resumed(self, seen: dict[str, Track]) -> Mover:
        """Return a client that goes on with the job: some instances it has `seen` before."""
        tracks = {key: seen.get(key) or self.seen(key) for key in self.instances}
        vouch(tracks.values(), self.books())
        found = outcomes_of(tracks.values())
        turns = again.turns(again.chosen(found, again.UNSUCCESSFUL), [*tracks.values()], found)
        mover = Mover(self.mover.job_id, tracks, turns, mirrors=Mirrors(tracks))
        assert mover.mirrors is not None
        mover.mirrors.begin()
        return mover

    def books(self) -> dict[str, Backup]:
        found = {key: Backup() for key, one in self.instances.items() if one.alive}
        for key, book in found.items():
            book.feed(0, self.instances[key].mirror, len(self.instances[key].mirror))
        return found

    def end(self, most: int) -> None:
        for key, row in self.late:
            self.instances[key].order(row)
        for _ in range(most):
            self.look()
            self.move("done")
            for instance in self.instances.values():
                instance.work()
            if self.finished():
                return

    def finished(self) -> bool:
        self.look()
        return self.mover.due_s(self.now_s) is None and not any(
            track.log.open for track in self.mover.tracks.values() if not track.gone
        )


def world(shares: list[list[int]], *, retries: int = 0, fails: frozenset[tuple[int, int]]) -> World:
    tracks, instances = {}, {}
    for index, share in enumerate(shares):
        key = f"i-{index}"
        tracks[key] = Track(Host(index, key, f"c-{index}", tuple(share)))
        instances[key] = Instance(index, [(task, 1) for task in share], fails=fails)
    return World(instances, Mover("job", tracks, Turns(retries)))


SHARES = st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any)
STEPS = st.lists(st.tuples(FATES, st.lists(st.integers(0, 4), max_size=3)), max_size=25)


def dealt(sizes: list[int]) -> list[list[int]]:
    starts = [sum(sizes[:at]) for at in range(len(sizes))]
    return [list(range(at, at + size)) for at, size in zip(starts, sizes, strict=True)]
