"""Keep a client of boto3 at our own pace: every try of a call, botocore's repetitions too."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from poormanray.aws.refusals import THROTTLED
from poormanray.pacing import Pace
from poormanray.waiting import Clock

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks


class Paced:
    """Holds calls back until their moment has come. Safe to share by threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pace = Pace()
        self._lock = threading.Lock()

    def attach(self, events: BaseEventHooks, calls: str) -> None:
        """Hold back the calls that botocore knows as `service` or `service.Operation`."""
        # First, because a signature that waits grows old.
        events.register_first(f"request-created.{calls}", self._hold)
        events.register(f"response-received.{calls}", self._note)

    def share(self) -> None:
        """Let all operations together have the allowance of one."""
        with self._lock:
            self._pace.shared = True

    def _hold(self, operation_name: str, **_: object) -> None:
        with self._lock:
            wait_s = self._pace.book(operation_name, self._clock.now_s())
        self._clock.sleep(wait_s)

    def _note(
        self, event_name: str, parsed_response: Mapping[str, object] | None = None, **_: object
    ) -> None:
        error = (parsed_response or {}).get("Error")
        code = error.get("Code", "") if isinstance(error, Mapping) else ""
        with self._lock:
            self._pace.answered(event_name.rpartition(".")[2], throttled=code in THROTTLED)
