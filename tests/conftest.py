"""What every test stands on: a `time.sleep` that can be forbidden before anything keeps it."""

from __future__ import annotations

import sys
import time
from typing import Final, SupportsIndex

from hypothesis import settings

_real_sleep: Final = time.sleep  # noqa: TID251 (what the guard calls when sleeping is allowed)


class SleepGuard:
    """Stand in for `time.sleep`, so that also those who kept a reference to it are caught."""

    def __init__(self) -> None:
        self.forbidden = False

    def __call__(self, seconds: float | SupportsIndex) -> None:
        # subprocess waits for a child with a deadline by short sleeps of its own, and botocore
        # sleeps for no time at all before it repeats a call at once.
        asker = sys._getframe(1).f_globals.get("__name__")
        allowed = asker == "subprocess" or (asker == "botocore.endpoint" and not seconds)
        if self.forbidden and not allowed:
            raise AssertionError("a unit test must not sleep: give the code a Clock of its own")
        _real_sleep(seconds)


sleep_guard: Final = SleepGuard()
time.sleep = sleep_guard  # noqa: TID251 (for the whole session)

# A busy machine is slow: that is no failure.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
