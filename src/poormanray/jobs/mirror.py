"""What has ended on one instance, written down on a second one, should the first be lost. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from poormanray.events import checksum
from poormanray.jobs.track import Track
from poormanray.ledger import (
    HIGHEST_CODE,
    MOST_ATTEMPTS,
    TaskState,
    TaskStatus,
    decode_keys,
    encode_keys,
)
from poormanray.remote import Reply
from poormanray.schedule import decode_ids, encode_ids, whole_number

# What one look carries to an instance: fifty such rows and the shell library fit into one send.
MOST_CHARS = 300
# Of ranges, few characters hold many; an answer is waited for no longer than for other looks.
MOST_AT_ONCE = 20_000
# The name of the file with such records in an answer, and more digits than a host index has.
MIRROR = "@mirror"
LONGEST_INDEX = 7
# Why a status has no times, and its task no log.
REASON = "mirrored"
_LETTERS = {
    "S": TaskState.SUCCEEDED,
    "F": TaskState.FAILED,
    "T": TaskState.TIMEOUT,
    "C": TaskState.CANCELLED,
    "L": TaskState.LOST,
}
_LETTER_OF = {state: letter for letter, state in _LETTERS.items()}


def _plain(status: TaskStatus) -> bool:
    return status.state is TaskState.SUCCEEDED and status.attempt == 1


def encode(host_index: int, statuses: Sequence[TaskStatus]) -> str:
    """Return, as one word, how attempts have ended on an instance."""
    plain = sorted(status.task for status in statuses if _plain(status))
    others = (
        f"{one.task}.{one.attempt}.{'-' if one.exit_code is None else one.exit_code}"
        f".{_LETTER_OF[one.state]}"
        for one in statuses
        if not _plain(one)
    )
    return f"{host_index}/{encode_ids(plain)}/{','.join(others)}"


def decode(data: bytes) -> dict[int, list[TaskStatus]]:
    """Read a `mirror` file: what has ended, by host index; damaged lines are passed over."""
    found: dict[int, list[TaskStatus]] = {}
    for line in data.decode("ascii", "replace").splitlines():
        text, _, digest = line.rpartition(" ")
        host, _, rest = text.partition("/")
        plain, _, others = rest.partition("/")
        if digest != checksum(text):
            continue
        try:
            statuses = [_succeeded(task) for task in decode_ids(plain)]
            statuses += [_other(word) for word in filter(None, others.split(","))]
            found.setdefault(whole_number(host), []).extend(statuses)
        except ValueError:
            continue
    return found


def _succeeded(task: int) -> TaskStatus:
    return TaskStatus(task, 1, TaskState.SUCCEEDED, exit_code=0, reason=REASON)


def _other(word: str) -> TaskStatus:
    task, attempt, code, letter = word.split(".")
    number = None if code == "-" else whole_number(code)
    if letter not in _LETTERS or (number or 0) > HIGHEST_CODE:
        raise ValueError("no end of a task")
    if whole_number(attempt) > MOST_ATTEMPTS:
        raise ValueError("more attempts than a task can have")
    return TaskStatus(
        whole_number(task), int(attempt), _LETTERS[letter], exit_code=number, reason=REASON
    )


@dataclass(frozen=True, slots=True)
class Move:
    """An attempt that one instance may give to another, by their host indices.

    `lost`: the one that had it before is lost, and `source` is where the manifest has the task.
    Of several such with one source and attempt, the first one in a backup counts.
    """

    source: int
    key: tuple[int, int]
    target: int
    lost: bool = False


def encode_moves(moves: Iterable[Move]) -> str:
    """Return moves as one word: of each source and target the attempts."""
    words: dict[str, list[tuple[int, int]]] = {}
    for one in moves:
        words.setdefault(f"{one.source}{'=' if one.lost else '>'}{one.target}", []).append(one.key)
    return ";".join(f"{head}/{encode_keys(keys)}" for head, keys in words.items())


def _moves(text: str) -> list[Move]:
    head, _, keys = text.partition("/")
    source, lost, target = head.partition("=")
    if not lost:
        source, _, target = head.partition(">")
    ends = whole_number(source), whole_number(target)
    return [Move(ends[0], key, ends[1], lost=bool(lost)) for key in decode_keys(keys)]


@dataclass(slots=True)
class Backup:
    """What one instance has on record of the others: how attempts ended, and where they went.

    `data` is the part of a last line that has not come whole; `read` counts the bytes before it.
    """

    read: int = 0
    size: int = -1
    data: bytes = b""
    ends: dict[int, list[TaskStatus]] = field(default_factory=dict)
    moves: set[Move] = field(default_factory=set)
    taken: dict[tuple[int, tuple[int, int]], int] = field(default_factory=dict)

    @property
    def offset(self) -> int:
        """Return from where to read on."""
        return self.read + len(self.data)

    @property
    def whole(self) -> bool:
        """Say whether all has been read that was there when it was last asked for."""
        return 0 <= self.size <= self.offset

    def feed(self, offset: int, data: bytes, size: int) -> None:
        """Take in bytes that were read at `offset` of a file of `size` bytes."""
        if offset != self.offset:
            return
        self.size = size
        data = self.data + data
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        self.data = data[len(whole) :]
        for host, statuses in decode(whole).items():
            self.ends.setdefault(host, []).extend(statuses)
        for one in decode_moves(whole):
            if (
                not one.lost
                or self.taken.setdefault((one.source, one.key), one.target) == one.target
            ):
                self.moves.add(one)


def decode_moves(data: bytes) -> list[Move]:
    """Read the moves of a `mirror` file; damaged lines are passed over."""
    found: list[Move] = []
    for line in data.decode("ascii", "replace").splitlines():
        text, _, digest = line.rpartition(" ")
        head = text.partition("/")[0]
        if digest != checksum(text) or not (">" in head or "=" in head):
            continue
        with suppress(ValueError):
            found += _moves(text)
    return found


def encode_hosts(indices: Iterable[int]) -> str:
    """Return host indices as one word."""
    return ",".join(str(index) for index in sorted(indices))


def decode_hosts(text: str) -> set[int]:
    """Read host indices that an instance returns; what is none of them is passed over."""
    return {int(word) for word in text.split(",") if word.isdecimal() and len(word) < LONGEST_INDEX}


# --- who holds whose backup --------------------------------------------------------------------


def backup_of(track: Track, tracks: Iterable[Track], but: int | None = None) -> Track | None:
    """Return the instance that is chosen to hold the backup of another; None where none is left.

    It is the next one in the order of the manifest that has not departed. Instances that joined
    later come after all others, so that a newcomer takes the backup from nobody; one that is not to
    witness for itself (`but`, a host index) comes last.
    """

    def place(other: Track) -> tuple[bool, bool, bool, int]:
        index = other.host.host_index
        both = bool(track.host.tasks and other.host.tasks)
        before = both and index < track.host.host_index
        return index == but, not other.host.tasks, before, index

    left = (one for one in tracks if one is not track and not one.gone)
    return min(left, key=place, default=None)


def arbiter_of(home: Track, tracks: Iterable[Track]) -> Track | None:
    """Return who has on record who adopts lost attempts of tasks that the manifest has at `home`.

    Where all others have departed it is `home` itself.
    """
    return backup_of(home, tracks) or (None if home.gone else home)


def ring(tracks: Collection[Track]) -> dict[str, str]:
    """Return, by instance id, who is chosen to hold the backup of each; as `backup_of` for each."""
    first = sorted((t for t in tracks if t.host.tasks), key=lambda track: track.host.host_index)
    joined = sorted((t for t in tracks if not t.host.tasks), key=lambda t: t.host.host_index)
    staying = [track for track in joined if not track.gone]
    found = {}
    following = next((track for track in first if not track.gone), None)
    for track in reversed(first):
        others = [one for one in (following, *staying[:1]) if one not in (None, track)]
        if others and others[0] is not None:
            found[track.host.instance_id] = others[0].host.instance_id
        following = following if track.gone else track
    for track in joined:
        if (other := backup_of(track, tracks)) is not None:
            found[track.host.instance_id] = other.host.instance_id
    return found


@dataclass(frozen=True, slots=True)
class Word:
    """Ends of one instance that are on their way to another, with a request of some kind."""

    source_id: str
    statuses: list[TaskStatus]
    kind: str


@dataclass(slots=True)
class Mirrors:
    """Says what each instance is to remember of another.

    `todo` has, by instance id, what has ended there and no other knows; `held` what each was
    told and has taken: (whose, what). What an instance held that is gone is told to the next.
    `refused` is what came after the records of its instance were closed, and `unable` who could not
    take what it was sent last (its disk is full). `on_record` is what has been taken, or cannot be
    for now, since that was last asked for: (instance id, status).
    Unless `active`, nothing is taken in, so that there is nothing to say.
    """

    tracks: Mapping[str, Track]
    active: bool = True
    refused: dict[str, list[TaskStatus]] = field(default_factory=dict)
    unable: set[str] = field(default_factory=set)
    on_record: list[tuple[str, TaskStatus]] = field(default_factory=list)
    todo: dict[str, list[TaskStatus]] = field(default_factory=dict)
    held: dict[str, list[tuple[str, list[TaskStatus]]]] = field(default_factory=dict)
    under_way: dict[str, Word] = field(default_factory=dict)
    chosen: dict[str, list[str]] = field(default_factory=dict)
    holders: dict[str, str] = field(default_factory=dict)
    left: int = -1

    def note(self, track: Track, status: TaskStatus) -> None:
        """Take in that an attempt has ended."""
        if self.active and status.state.ended:
            self.todo.setdefault(track.host.instance_id, []).append(status)

    def begin(self) -> None:
        """Take in what has been read of instances before: no other may have that on record."""
        for track in self.tracks.values():
            for status in track.log.tasks.values() if not track.gone else ():
                if status.reason != REASON:
                    self.note(track, status)

    def word_for(self, target: Track, kind: str = "look") -> str:
        """Return what an instance is to put on record with its next request; "" for nothing.

        `kind` is that of the request, whose response alone confirms it.
        """
        self._forget_gone()
        target_id = target.host.instance_id
        if target_id in self.under_way or not _can_record(target):
            return ""
        for source_id in self._sources(target_id):
            if statuses := self.todo.get(source_id):
                word, count = self._portion(source_id)
                self.under_way[target_id] = Word(source_id, statuses[:count], kind)
                del statuses[:count]
                return word
        return ""

    def _portion(self, source_id: str) -> tuple[str, int]:
        index, statuses = self.tracks[source_id].host.host_index, self.todo[source_id]
        count = min(len(statuses), MOST_AT_ONCE)
        while len(word := encode(index, statuses[:count])) > MOST_CHARS and count > 1:
            count = count * MOST_CHARS // len(word) or 1
        return word, count

    def heard(self, reply: Reply, kind: str) -> None:
        """Take in what came of a request of some kind."""
        facts = reply.answer.facts if reply.answer else {}
        closed = decode_hosts(facts.get("sealed", ""))
        target_id, word = reply.instance_id, self.under_way.get(reply.instance_id)
        if word is None or word.kind != kind:
            return
        taken = "mirrored" in facts
        self.answered(target_id, taken=taken, closed=closed)
        if taken:
            self.unable.discard(target_id)
        elif reply.answer and "refused" not in facts and self.todo.get(word.source_id):
            # It is there, it has not closed those records, and yet it could not write.
            self.unable.add(target_id)
            self.on_record += [(word.source_id, status) for status in word.statuses]

    def answered(
        self, target_id: str, *, taken: bool, closed: Collection[int] = frozenset()
    ) -> None:
        """Take in that a look has come to its end, and whether its word was written down.

        `closed` are those whose records are closed there.
        """
        if (word := self.under_way.pop(target_id, None)) is None:
            return
        source_id, statuses = word.source_id, word.statuses
        if not taken and self.tracks[source_id].host.host_index in closed:
            self.refused.setdefault(source_id, []).extend(statuses)
        elif taken:
            self.held.setdefault(target_id, []).append((source_id, statuses))
            self.on_record += [(source_id, status) for status in statuses]
        else:
            self.todo.setdefault(source_id, [])[:0] = statuses

    def lacks(self, target: Track) -> bool:
        """Say whether an instance could take something now that no other has on record."""
        self._forget_gone()
        target_id = target.host.instance_id
        if target_id in self.under_way or target_id in self.unable:
            return False
        return _can_record(target) and any(
            self.todo.get(source_id) for source_id in self._sources(target_id)
        )

    def has_holder(self, instance_id: str) -> bool:
        """Say whether another instance is to have on record what ends on this one."""
        self._choose()
        return self.active and instance_id in self.holders

    def _forget_gone(self) -> None:
        for target_id in [key for key in self.held if self.tracks[key].gone]:
            for source_id, statuses in self.held.pop(target_id):
                self.todo.setdefault(source_id, [])[:0] = statuses

    def _sources(self, target_id: str) -> Sequence[str]:
        """Return whose backup an instance is chosen to hold."""
        self._choose()
        return self.chosen.get(target_id, ())

    def _choose(self) -> None:
        left = sum(not track.gone for track in self.tracks.values()) + len(self.tracks)
        if left != self.left:
            self.left, self.chosen = left, {}
            self.holders = ring(self.tracks.values())
            for source, target in self.holders.items():
                self.chosen.setdefault(target, []).append(source)

    def unsaid(self, instance_id: str) -> bool:
        """Say whether something is known of an instance that no backup has taken yet."""
        under_way = any(word.source_id == instance_id for word in self.under_way.values())
        return under_way or bool(self.todo.get(instance_id))

    def give_up(self, instance_id: str) -> list[TaskStatus]:
        """Return the ends of an instance that no backup is known to have; none takes them any more.

        One that is under way may be there all the same: then the backup returns it.
        """
        for target_id, word in list(self.under_way.items()):
            if word.source_id == instance_id:
                self.refused.setdefault(instance_id, []).extend(word.statuses)
                del self.under_way[target_id]
        return self.refused.pop(instance_id, []) + self.todo.pop(instance_id, [])


def _can_record(track: Track) -> bool:
    """Say whether an instance has the job, and responds."""
    return track.looked and track.responds
