"""Whether instances that do not answer still exist, as far as EC2's answers can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

from poormanray.errors import Throttled
from poormanray.jobs.fleet import Fleet
from poormanray.jobs.presence import Presence
from poormanray.jobs.track import Contact, Track
from poormanray.manifest import Host
from poormanray.model import Instance, InstanceState
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
            fate = presence.fate(track, ["i-0"])
            said.append(fate.why if fate else "")
        return said


RUNS: Seen = {"i-0": (InstanceState.RUNNING, "")}
ENDED: Seen = {"i-0": (InstanceState.TERMINATED, "Client.UserInitiatedShutdown")}


def test_a_state_that_is_told_counts_at_once() -> None:
    assert Ec2(ENDED).words(0) == ["i-0 is terminated (Client.UserInitiatedShutdown)"]


GONE = "i-0 is gone: EC2 does not show it any more"


def test_one_answer_without_it_is_no_proof_nor_are_two_close_together() -> None:
    assert Ec2({}, {}, {}).words(0, 5, 59, 60) == ["", "", "", ""]
    assert Ec2({}, {}).words(0, 61) == ["", GONE]
    assert Ec2({}, RUNS, {}, {}, {}).words(0, 61, 72, 120, 133) == ["", "", "", "", GONE]


def test_it_is_asked_again_when_throttled() -> None:
    assert Ec2(None, {}, None, {}).words(0, 11, 30, 72) == ["", "", "", GONE]


def test_instances_are_asked_for_by_id_whatever_their_tags() -> None:
    left = Instance("i-2", "c-2", "c", 2, InstanceState.STOPPED, "", "", "")
    asked: list[list[str]] = []

    def by_ids(ids: Sequence[str]) -> list[Instance]:
        asked.append(list(ids))
        shown = {"i-3": InstanceState.TERMINATED, "i-4": InstanceState.RUNNING}
        return [Instance(k, k, "other", 0, shown[k], "", "", "") for k in ids if k in shown]

    aws = SimpleNamespace(ec2=lambda: SimpleNamespace(by_ids=by_ids))
    ready = (Instance("i-1", "c-1", "c", 1, InstanceState.RUNNING, "", "", ""),)
    some = Fleet(cast("Any", aws), cast("Any", None), "c", ready, ((left, "stopped"),))
    fates = some.fates([f"i-{number}" for number in range(1, 6)])
    assert asked == [["i-3", "i-4", "i-5"]]
    assert {key: fate.contact for key, fate in fates.items()} == {
        "i-2": Contact.STOPPED,
        "i-3": Contact.LOST,
        "i-4": Contact.SILENT,
        "i-5": Contact.SILENT,
    }
    assert fates["i-4"].why == "it has lost the tags of cluster c"
