"""What EC2 has launched is shown one instance after another."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from poormanray.local.cloud_checks import Newness


def test_the_instances_of_a_launch_are_shown_one_after_another() -> None:
    now = SimpleNamespace(s=100.0)
    timers = cast("Any", SimpleNamespace(now_s=lambda: now.s))
    settings = cast("Any", SimpleNamespace(instance_visible_s=0.0, tags_visible_s=8.0))
    newness = Newness(cast("Any", None), timers, settings)
    newness.launched(["i-0", "i-1", "i-2", "i-3"])
    seen = []
    for _ in range(5):
        seen.append(sorted(newness.untagged()))
        now.s += 2
    assert seen == [["i-0", "i-1", "i-2", "i-3"][n:] for n in range(5)]
    assert newness.unknown() == frozenset()
