"""How slow the local cloud is: every delay of it, in seconds of the cloud's own time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Settings:
    """The delays of the cloud, in cloud seconds.

    `time_scale` cloud seconds pass in one second of the wall clock.
    """

    time_scale: float = 1.0
    # SSM
    visibility_s: float = 0.5  # a new command is not found by reads for this long
    delivery_s: float = 0.3  # from SendCommand until the agent has the command
    reply_s: float = 0.005  # from the agent's reply until reads show it
    registration_s: float = 1.0  # from power on until the agent answers
    interrupted_report_s: float = 60.0  # a command cut off by a power loss is reported Failed
    reboot_grace_s: float = 60.0  # exit code 194: the agent runs `shutdown -r +1`
    # EC2 and IAM
    pending_s: float = 0.5
    stopping_s: float = 0.5
    shutting_down_s: float = 0.5
    profile_visible_s: float = 2.0  # from AddRoleToInstanceProfile until RunInstances sees it

    def with_words(self, words: Iterable[str]) -> Settings:
        """Return a copy changed by words such as `delivery_s=0.1`.

        Raises:
            ValueError: a word is not NAME=NUMBER, or names no setting.
        """
        known = {field.name for field in fields(self)}
        changes: dict[str, float] = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or name not in known:
                raise ValueError(f"{word!r}: expected NAME=SECONDS with one of {sorted(known)}")
            changes[name] = float(value)
        changed = replace(self, **changes)
        if changed.time_scale <= 0 or any(value < 0 for value in changes.values()):
            raise ValueError("a delay must not be negative, and the time scale not zero")
        return changed
