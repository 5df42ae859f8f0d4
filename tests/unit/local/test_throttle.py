"""The buckets of calls, with a clock turned by hand."""

from __future__ import annotations

from poormanray.local.settings import Settings
from poormanray.local.throttle import Throttle
from tests.support.cloud_fakes import HandTimers


def taken(throttle: Throttle, operation: str, calls: int, **form: str) -> int:
    """Return how many of so many calls pass."""
    service = "ec2" if operation[0] in "DRST" and operation != "SendCommand" else "ssm"
    words = {name.replace("_", "."): value for name, value in form.items()}
    return sum(not throttle.refuses(service, "r", operation, words) for _ in range(calls))


def test_nothing_is_throttled_unless_asked_for() -> None:
    throttle = Throttle(HandTimers(), Settings())
    assert taken(throttle, "SendCommand", 1_000) == 1_000
    assert taken(throttle, "RunInstances", 1_000, MaxCount="1000") == 1_000


def test_each_operation_has_a_bucket_that_fills_again() -> None:
    timers = HandTimers()
    throttle = Throttle(timers, Settings(ssm_rate=5))
    assert taken(throttle, "SendCommand", 20) == 5
    assert taken(throttle, "ListCommandInvocations", 20) == 5
    timers.pass_s(0.4)
    assert taken(throttle, "SendCommand", 20) == 2
    timers.pass_s(60)
    assert taken(throttle, "SendCommand", 20) == 5


def test_regions_and_services_are_counted_apart() -> None:
    throttle = Throttle(HandTimers(), Settings(ssm_rate=1, iam_rate=2))
    assert [throttle.refuses("ssm", region, "ListCommands", {}) for region in "aab"] == [
        False,
        True,
        False,
    ]
    assert [throttle.refuses("iam", "", "GetRole", {}) for _ in range(3)] == [False, False, True]


def test_the_buckets_of_ec2() -> None:
    timers = HandTimers()
    throttle = Throttle(timers, Settings(ec2_throttle=1))
    assert taken(throttle, "RunInstances", 10, MaxCount="1") == 5
    assert taken(throttle, "StartInstances", 10, InstanceId_1="i") == 5
    assert taken(throttle, "TerminateInstances", 200, InstanceId_1="i") == 100
    assert taken(throttle, "StopInstances", 200, InstanceId_1="i") == 50
    assert taken(throttle, "DescribeInstances", 200) == 50
    timers.pass_s(1)
    assert taken(throttle, "RunInstances", 10, MaxCount="1") == 2
    assert taken(throttle, "DescribeInstances", 200) == 10


def test_filtered_and_paged_reads_have_the_larger_bucket() -> None:
    throttle = Throttle(HandTimers(), Settings(ec2_throttle=1))
    assert taken(throttle, "DescribeInstances", 200, MaxResults="5") == 100


def test_instances_are_counted_too() -> None:
    timers = HandTimers()
    throttle = Throttle(timers, Settings(ec2_throttle=1))
    assert taken(throttle, "RunInstances", 3, MaxCount="400") == 2
    timers.pass_s(100)
    assert taken(throttle, "RunInstances", 3, MaxCount="400") == 1
