"""Fetching what tasks wrote into PMR_OUTPUT_DIR: small packs in answers, large ones by a bucket."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from poormanray.envelope import Answer, Chunk
from poormanray.jobs.deposit import Deposit, object_key
from poormanray.jobs.pack import MOST_FILES, PackError, Store
from poormanray.model import chunks
from poormanray.remote import CHUNK, Order
from poormanray.shell import LARGE_ANSWER_CHARS, Call

if TYPE_CHECKING:
    from poormanray.jobs.fleet import Fleet

# What an instance's outputs may come to, in bytes, to come in answers, and by a bucket.
INLINE_BYTES = 1 << 20
MOST_BYTES = 2 << 30
# A pack may be larger than what is in it, by names and what compression cannot do.
_PACK_EXTRA = 1 << 20
PIECE_BYTES = 13_500
LANES = 3
ROUND_TRIP_S = 1.5
MOST_FAILURES = 4
# How long an instance may pack, and put a pack into the bucket (whose address holds 15 minutes).
PACK_S, GIVE_S = 300, 800
# Addresses are long: so many fit into one send.
ADDRESSES = 10
PACK = "@pack"
_FOUND = re.compile(r"([0-9]{1,9}) ([0-9]{1,15})")
_DIGEST = re.compile(r"([0-9a-f]{64})  -")
PROBLEMS = {
    "pack": "it could not pack the outputs (is its disk full?)",
    "no-curl": "it has no curl to put the outputs into the bucket with",
    "give": "it could not put the outputs into the bucket",
    "no-such-job": "it does not know this job",
    "expired": "the command reached it too late (or its clock is wrong)",
}
DAMAGED = "the outputs arrived damaged; type it again"


@dataclass(frozen=True, slots=True)
class Found:
    """What an instance has: files, the bytes in them, and its pack's size and SHA-256."""

    files: int
    bytes: int
    size: int = 0
    digest: str = ""


@dataclass(slots=True)
class Gathered:
    """What came of it: why instances brought nothing or not all, and who has too much for answers.

    `found` is what each instance has that answered.
    """

    found: dict[str, Found] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    too_large: dict[str, Found] = field(default_factory=dict)


def inline_s(count: int) -> float:
    """Return how many seconds so many bytes of outputs take in answers, if they compress badly."""
    return -(-count // (PIECE_BYTES * LANES)) * ROUND_TRIP_S


@dataclass(slots=True)
class Gatherer:
    """Gathers a job's outputs; `keys` are the attempts that are wanted, by instance id."""

    fleet: Fleet
    job_id: str
    pattern: str
    keys: Mapping[str, frozenset[str]]
    store: Store
    told: Callable[[str], None]
    done: Gathered = field(default_factory=Gathered)

    def gather(self, bucket: str) -> Gathered:
        """Fetch all that matches; with a bucket also what is too large for answers.

        Raises:
            OSError: this machine cannot write them.
            AwsRefused: AWS said no.
        """
        ids = [key for key in self.fleet.ready_ids if self.keys.get(key)]
        for key, answer in self._asked(ids, {}, INLINE_BYTES, PACK_S):
            found = self._note(key, answer)
            if found and found.files > MOST_FILES:
                del self.done.found[key]
                self.done.problems[key] = (
                    f"{found.files} files match, and {MOST_FILES} can come at a time: match fewer, "
                    "or let the tasks pack them"
                )
        small = [key for key, found in self.done.found.items() if _is_small(found)]
        large = [key for key, found in self.done.found.items() if found.files and key not in small]
        for some in chunks([key for key in small if self.done.found[key].files], CHUNK):
            self._read(some)
        for key in large:
            if not bucket or self.done.found[key].bytes > MOST_BYTES:
                self.done.too_large[key] = self.done.found[key]
        asked = [key for key in large if key not in self.done.too_large]
        for number, some in enumerate(chunks(asked, ADDRESSES)):
            self.told(f"outputs: {number * ADDRESSES} of {len(asked)} instances by bucket")
            self._through(bucket, some)
        self.told("")
        return self.done

    # --- what the instances say ----------------------------------------------------------------

    def _asked(
        self, ids: Sequence[str], rows: Mapping[str, str], most: int, work_s: int
    ) -> Iterator[tuple[str, Answer]]:
        """Ask instances to pack; yield the answers that are no refusals, and note the others."""
        order = Order(
            Call("outputs", (self.job_id, self.pattern, str(most)), 0),
            rows,
            comment=f"pmr outputs {self.job_id}",
            work_s=work_s,
        )
        for reply in self.fleet.remote.ask(order, ids):
            if reply.answer is None:
                self.done.problems[reply.instance_id] = reply.problem
            elif refusal := reply.answer.facts.get("refused", ""):
                why = PROBLEMS.get(refusal, refusal[:99]) + _complaint(reply.answer)
                self.done.problems[reply.instance_id] = why
            else:
                yield reply.instance_id, reply.answer

    def _note(self, key: str, answer: Answer) -> Found | None:
        """Keep what an instance says that it has; None if that is nothing sound."""
        found = _FOUND.fullmatch(answer.facts.get("found", ""))
        digest = _DIGEST.fullmatch(answer.facts.get("digest", ""))
        size = answer.facts.get("size", "")
        if found is None or (int(found[1]) and not (digest and size.isdecimal())):
            self.done.problems[key] = "its answer is damaged"
            return None
        told = Found(int(found[1]), int(found[2]))
        if digest and size.isdecimal():
            told = Found(told.files, told.bytes, int(size[:15]), digest[1])
        self.done.found[key] = told
        return told

    def _take(self, key: str, pack: IO[bytes], most: int) -> None:
        """Write what is in an instance's pack, if it is the one that it spoke of."""
        found, digest = self.done.found[key], hashlib.sha256()
        while block := pack.read(1 << 20):
            digest.update(block)
        if digest.hexdigest() != found.digest:
            self.done.problems[key] = DAMAGED
            return
        pack.seek(0)
        try:
            left_out = self.store.take(pack, self.keys[key], count=found.files, most=most)
        except PackError as error:
            self.done.problems[key] = f"its pack of outputs is not sound: {error}"
            return
        if left_out:
            more = f" (and {len(left_out) - 1} more)" * (len(left_out) > 1)
            self.done.problems[key] = f"left out: {left_out[0]}{more}"

    # --- in answers ----------------------------------------------------------------------------

    def _read(self, ids: Sequence[str]) -> None:
        """Read the packs of some instances side by side, piece by piece."""
        packs = {key: _Reading(bytearray(self.done.found[key].size)) for key in ids}
        total = sum(len(pack.data) for pack in packs.values())
        while under_way := {key: pack for key, pack in packs.items() if pack.todo}:
            left = sum(end - start for pack in under_way.values() for start, end in pack.todo)
            if total > PIECE_BYTES * LANES:
                self.told(f"outputs: {(total - left) // 1024} of {total // 1024} KiB")
            self._round(under_way)
        for key, pack in packs.items():
            if pack.failures > MOST_FAILURES:
                self.done.problems[key] = pack.problem
            else:
                self._take(key, io.BytesIO(pack.data), INLINE_BYTES)

    def _round(self, packs: Mapping[str, _Reading]) -> None:
        asked: list[dict[str, tuple[int, int]]] = []
        for _ in range(LANES):
            pieces = {key: pack.todo.pop(0) for key, pack in packs.items() if pack.todo}
            asked += [pieces] if pieces else []
        orders = [(self._read_order(pieces), list(pieces)) for pieces in asked]
        for number, reply in self.fleet.remote.ask_all(orders):
            pack = packs[reply.instance_id]
            pack.receive(asked[number][reply.instance_id], reply.answer, reply.problem)

    def _read_order(self, pieces: Mapping[str, tuple[int, int]]) -> Order:
        rows = {
            key: f"- 0 0 {LARGE_ANSWER_CHARS} {PACK}:{start}:{end - start}"
            for key, (start, end) in pieces.items()
        }
        call = Call("observe", (self.job_id,), 0)
        return Order(call, rows, large=True, comment=f"pmr read {self.job_id}")

    # --- by a bucket ---------------------------------------------------------------------------

    def _through(self, bucket: str, ids: Sequence[str]) -> None:
        """Let some instances put their packs into the bucket, and fetch them from there."""
        s3 = self.fleet.aws.s3()
        places = {
            key: Deposit(s3, bucket, object_key(self.job_id, f"outputs-{key}")) for key in ids
        }
        # It tells whether there is such a bucket at all: an instance could only say that it failed.
        s3.delete(bucket, next(iter(places.values())).key)
        try:
            rows = {key: place.put_url() for key, place in places.items()}
            for key, answer in self._asked(ids, rows, MOST_BYTES, GIVE_S):
                found = self._note(key, answer)
                if found is None:
                    continue
                if "given" not in answer.facts or found.bytes > MOST_BYTES:
                    self.done.problems[key] = "its outputs grew meanwhile; type it again"
                    continue
                with tempfile.TemporaryFile(dir=self.store.folder) as file:
                    s3.copy_to(bucket, places[key].key, file, most=found.size + 1)
                    file.seek(0)
                    self._take(key, file, MOST_BYTES)
        finally:
            for key, place in places.items():
                if why := place.remove():
                    self.done.problems[key] = f"{place.name} stays there: {why}"


def _complaint(answer: Answer) -> str:
    """Return the last thing that a program on the instance complained of."""
    try:
        said = base64.b64decode(answer.facts.get("stderr", ""), validate=True)
    except ValueError:
        return ""
    lines = said.decode("utf-8", "replace").splitlines()
    return f": {lines[-1][:200]}" if lines else ""


def _is_small(found: Found) -> bool:
    return found.bytes <= INLINE_BYTES and found.size <= INLINE_BYTES + _PACK_EXTRA


@dataclass(slots=True)
class _Reading:
    """How far one pack has been read: the pieces that are still to be asked for."""

    data: bytearray
    todo: list[tuple[int, int]] = field(default_factory=list)
    failures: int = 0
    problem: str = ""

    def __post_init__(self) -> None:
        size = len(self.data)
        self.todo = [(at, min(at + PIECE_BYTES, size)) for at in range(0, size, PIECE_BYTES)]

    def receive(self, piece: tuple[int, int], answer: Answer | None, problem: str) -> None:
        """Take in what was answered to a piece; what is missing of it is asked for again."""
        start, end = piece
        records = answer.records if answer else ()
        got = next((one for one in records if isinstance(one, Chunk) and one.name == PACK), None)
        if got is None or got.offset != start or got.end > end or not got.data:
            self.failures += 1
            self.problem = problem or DAMAGED
            self.todo = [] if self.failures > MOST_FAILURES else [piece, *self.todo]
            return
        self.data[start : got.end] = got.data
        if got.end < end:
            self.todo.insert(0, (got.end, end))
