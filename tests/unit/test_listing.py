"""Reading what a job is: who is asked, and asked again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from poormanray.envelope import Answer
from poormanray.errors import NotFound, NotReached
from poormanray.jobs.listing import MOST_TRIES, load, resolve
from poormanray.remote import Order, Reply

JOB = "1ng00000000"
UNKNOWN = Answer(more=False, facts={"refused": "no-such-job"})


@dataclass(slots=True)
class Remote:
    """Stands where Remote stands: the replies of each instance, one for each time it is asked."""

    replies: Mapping[str, Sequence[Reply]]
    asked: list[list[str]] = field(default_factory=list)
    timeouts_s: list[int] = field(default_factory=list)

    def ask(self, order: Order, instance_ids: Sequence[str]) -> Iterator[Reply]:
        self.asked.append(list(instance_ids))
        self.timeouts_s.append(order.deliver_timeout_s)
        for key in instance_ids:
            yield self.replies[key][len([ids for ids in self.asked if key in ids]) - 1]


def fleet(remote: Remote) -> Any:  # noqa: ANN401 (as much of a Fleet as is looked at)
    return cast("Any", SimpleNamespace(remote=remote, cluster="c", ready_ids=list(remote.replies)))


def failed(key: str, *, delivered: bool = True) -> Reply:
    return Reply(key, None, "the command ended as Failed", delivered=delivered)


def test_who_failed_at_the_question_is_asked_again() -> None:
    remote = Remote({"i-0": [Reply("i-0", UNKNOWN)], "i-1": [failed("i-1"), Reply("i-1", UNKNOWN)]})
    with pytest.raises(NotFound):
        load(fleet(remote), JOB)
    assert remote.asked == [["i-0", "i-1"], ["i-1"]]


def test_nobody_is_asked_without_end() -> None:
    remote = Remote({"i-0": [failed("i-0")] * MOST_TRIES})
    with pytest.raises(NotReached, match="ended as Failed"):
        load(fleet(remote), JOB)
    assert len(remote.asked) == MOST_TRIES


def test_who_was_silent_for_a_whole_order_is_not_asked_again() -> None:
    remote = Remote({"i-0": [replace(failed("i-0"), silent=True)]})
    with pytest.raises(NotReached):
        load(fleet(remote), JOB)
    assert remote.asked == [["i-0"]]


def test_who_did_not_take_the_question_in_time_is_not_asked_again() -> None:
    remote = Remote({"i-0": [failed("i-0", delivered=False)]})
    with pytest.raises(NotReached):
        load(fleet(remote), JOB, deliver_timeout_s=120)
    assert remote.asked == [["i-0"]]
    assert remote.timeouts_s == [120]


@pytest.mark.parametrize("reference", ["last", "later"])
def test_nobody_answering_is_not_the_same_as_no_such_job(reference: str) -> None:
    with pytest.raises(NotReached, match=f"which job '{reference}' is: i-0: .*ended as Failed"):
        resolve(fleet(Remote({"i-0": [failed("i-0")] * MOST_TRIES})), reference)
    some = {"i-0": [failed("i-0")] * MOST_TRIES, "i-1": [Reply("i-1", UNKNOWN)]}
    with pytest.raises(NotFound, match="no job"):
        resolve(fleet(Remote(some)), reference)
