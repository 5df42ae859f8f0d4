"""What has ended on one instance, written down on a second one, should the first be lost. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from poormanray.events import checksum
from poormanray.jobs.track import Track
from poormanray.ledger import HIGHEST_CODE, MOST_ATTEMPTS, TaskState, TaskStatus
from poormanray.remote import Reply
from poormanray.schedule import decode_ids, encode_ids, whole_number

# What one look carries to an instance: fifty such rows and the shell library fit into one send.
MOST_CHARS = 300
MOST_AT_ONCE = 400
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


def learn(tracks: Iterable[Track], told: Mapping[int, Sequence[TaskStatus]]) -> None:
    """Let tracks of instances that are gone know what others remember of them."""
    for track in tracks:
        if track.gone:
            track.log.learn(told.get(track.host.host_index, ()))


@dataclass(slots=True)
class Mirrors:
    """Says what each instance is to remember of another.

    `todo` has, by instance id, what has ended there and no other knows; `held` what each was
    told and has taken: (whose, what). What an instance held that is gone is told to the next.
    Unless `active`, nothing is taken in, so that there is nothing to say.
    """

    tracks: Mapping[str, Track]
    active: bool = True
    todo: dict[str, list[TaskStatus]] = field(default_factory=dict)
    held: dict[str, list[tuple[str, list[TaskStatus]]]] = field(default_factory=dict)
    under_way: dict[str, tuple[str, list[TaskStatus]]] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)

    def note(self, track: Track, status: TaskStatus) -> None:
        """Take in that an attempt has ended."""
        if self.active and status.state.ended:
            self.todo.setdefault(track.host.instance_id, []).append(status)

    def word_for(self, target: Track, *, last: bool = False) -> str:
        """Return what an instance is to remember with its next look; "" for nothing.

        The `last` look asks everybody that can answer, also those whose tasks have all ended.
        """
        self._forget_gone()
        target_id = target.host.instance_id
        if target_id in self.under_way or not _remembers(target, last=last):
            return ""
        for source_id in self._sources(target_id, last=last):
            if statuses := self.todo.get(source_id):
                word, count = self._portion(source_id)
                self.under_way[target_id] = (source_id, statuses[:count])
                del statuses[:count]
                return word
        return ""

    def _portion(self, source_id: str) -> tuple[str, int]:
        index, statuses = self.tracks[source_id].host.host_index, self.todo[source_id]
        count = min(len(statuses), MOST_AT_ONCE)
        while len(word := encode(index, statuses[:count])) > MOST_CHARS and count > 1:
            count = count * MOST_CHARS // len(word) or 1
        return word, count

    def heard(self, reply: Reply) -> None:
        """Take in what came of a look."""
        taken = reply.answer is not None and "mirrored" in reply.answer.facts
        self.answered(reply.instance_id, taken=taken)

    def answered(self, target_id: str, *, taken: bool) -> None:
        """Take in that a look has come to its end, and whether its word was written down."""
        source_id, statuses = self.under_way.pop(target_id, ("", []))
        if not statuses:
            return
        if taken:
            self.held.setdefault(target_id, []).append((source_id, statuses))
        else:
            self.todo[source_id][:0] = statuses

    def _forget_gone(self) -> None:
        for target_id in [key for key in self.held if not self.tracks[key].responds]:
            for source_id, statuses in self.held.pop(target_id):
                self.todo[source_id][:0] = statuses

    def _sources(self, target_id: str, *, last: bool) -> Iterator[str]:
        """Yield whom an instance remembers for: those before it, up to one that could as well."""
        if len(self.ids) != len(self.tracks):
            self.ids = list(self.tracks)
        at = self.ids.index(target_id)
        for key in reversed(self.ids[at + 1 :] + self.ids[:at]):
            yield key
            if _remembers(self.tracks[key], last=last):
                return


def _remembers(track: Track, *, last: bool) -> bool:
    """Say whether an instance is looked at anyway, so that it can be told something."""
    return track.looked and not track.problem and (last or not track.all_ended)
