"""Whether instances that do not answer still exist, as far as EC2's answers can be trusted."""

from __future__ import annotations

from collections.abc import Sequence

from poormanray.errors import Throttled
from poormanray.jobs.presence import Presence
from poormanray.jobs.track import Track
from poormanray.manifest import Host
from poormanray.model import InstanceState
from poormanray.waiting import Clock

Seen = dict[str, tuple[InstanceState, str]]


class Ec2:
    """Gives the answers of a list, one after the other; None is throttled."""

    def __init__(self, *answers: Seen | None) -> None:
        self.answers = list(answers)
        self.now_s = 0.0

    def __call__(self, _ids: Sequence[str]) -> Seen:
        answer = self.answers.pop(0)
        if answer is None:
            raise Throttled("slow down")
        return answer

    def words(self, *at_s: float) -> list[str]:
        track = Track(Host(0, "i-0", "c-0", (0,)))
        presence = Presence(self, Clock(1.0, lambda: self.now_s), 10)
        said = []
        for moment in at_s:
            self.now_s = moment
            said.append(presence.ended_words(track, ["i-0"]))
        return said


RUNS: Seen = {"i-0": (InstanceState.RUNNING, "")}
ENDED: Seen = {"i-0": (InstanceState.TERMINATED, "Client.UserInitiatedShutdown")}


def test_a_state_that_is_told_counts_at_once() -> None:
    assert Ec2(ENDED).words(0) == ["i-0 is terminated (Client.UserInitiatedShutdown)"]


def test_one_answer_without_it_is_no_proof() -> None:
    assert Ec2({}, {}).words(0, 5, 11) == ["", "", "i-0 is terminated"]
    assert Ec2({}, RUNS, {}, {}).words(0, 11, 22, 33) == ["", "", "", "i-0 is terminated"]


def test_it_is_asked_again_when_throttled() -> None:
    assert Ec2(None, {}, None, {}).words(0, 11, 22, 33) == ["", "", "", "i-0 is terminated"]
