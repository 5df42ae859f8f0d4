"""The cloud's clock, its delays, and what its answers are checked against."""

from __future__ import annotations

import contextlib
import threading
import time

import pytest

from poormanray.local.refusals import Protocol, Refusal, refusal_answer
from poormanray.local.service_model import check_request, shape_answer, ssm_model
from poormanray.local.settings import Settings
from poormanray.local.timers import WallTimers


def test_time_passes_faster_and_in_order() -> None:
    timers = WallTimers(scale=100.0, workers=1)
    seen: list[str] = []
    done = threading.Event()
    started = time.monotonic()
    timers.after(9.0, done.set)
    timers.after(6.0, lambda: seen.append("second"))
    timers.after(3.0, lambda: seen.append("first"))
    assert done.wait(5)
    timers.close()
    assert seen == ["first", "second"]
    assert time.monotonic() - started < 2


def test_a_broken_action_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    timers = WallTimers(workers=1)
    done = threading.Event()

    def broken() -> None:
        raise ValueError("oops")

    timers.after(0, broken)
    timers.after(0, done.set)
    assert done.wait(5)
    timers.close()
    assert "an action of the cloud failed" in caplog.text


def test_what_is_due_after_the_end_is_dropped() -> None:
    timers = WallTimers()
    late = threading.Event()
    timers.after(3600, late.set)
    timers.close()
    timers.after(0, late.set)
    assert not late.is_set()


def test_settings_are_changed_by_words() -> None:
    changed = Settings().with_words(["delivery_s=0.1", "time_scale=10"])
    assert (changed.delivery_s, changed.time_scale) == (0.1, 10.0)
    assert changed.visibility_s == Settings().visibility_s


@pytest.mark.parametrize(
    "word", ["colour=1", "delivery_s", "delivery_s=x", "delivery_s=-1", "time_scale=0"]
)
def test_settings_that_make_no_sense(word: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Settings().with_words([word])


def test_every_limit_of_a_request_is_checked() -> None:
    with pytest.raises(Refusal, match="2 validation errors detected") as caught:
        check_request(
            "SendCommand",
            {
                "DocumentName": "AWS-RunShellScript",
                "MaxErrors": "x",
                "InstanceIds": ["i-12345678"],
                "TimeoutSeconds": 1,
            },
        )
    assert "at 'maxErrors'" in caught.value.message
    assert "at 'timeoutSeconds'" in caught.value.message


def test_every_request_can_be_checked_whatever_its_patterns() -> None:
    for operation in ssm_model().operation_names:
        shape = ssm_model().operation_model(operation).input_shape
        assert shape is not None
        with pytest.raises(Refusal) if shape.required_members else contextlib.nullcontext():
            check_request(operation, {})


def test_answers_hold_only_what_the_model_has() -> None:
    answer = {"Commands": [{"CommandId": "x", "Colour": "red", "Comment": None}], "Else": 1}
    assert shape_answer("ListCommands", answer) == {"Commands": [{"CommandId": "x"}]}


@pytest.mark.parametrize(
    ("protocol", "part"),
    [
        (Protocol.JSON, b'{"__type": "Nope", "message": "a < b"}'),
        (Protocol.EC2, b"<Response><Errors><Error><Code>Nope</Code><Message>a &lt; b</Message>"),
        (Protocol.QUERY, b"<ErrorResponse><Error><Type>Sender</Type><Code>Nope</Code>"),
        (Protocol.S3, b"<Error><Code>Nope</Code><Message>a &lt; b</Message>"),
    ],
)
def test_each_protocol_says_no_in_its_own_words(protocol: Protocol, part: bytes) -> None:
    answer = refusal_answer(Refusal("Nope", "a < b", status=403), protocol)
    assert (answer.status, part in answer.body) == (403, True)
