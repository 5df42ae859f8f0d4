"""How slow and how strict the local cloud is: delays, in seconds of its own time, and limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace


@dataclass(frozen=True, slots=True)
class Settings:
    """The delays of the cloud, in cloud seconds (`_s`), and its limits.

    `time_scale` cloud seconds pass in one second of the wall clock.
    """

    time_scale: float = 1.0
    # SSM
    visibility_s: float = 0.5  # a new command is not found by reads for this long
    delivery_s: float = 0.3  # from SendCommand until the agent has the command
    reply_s: float = 0.005  # from the agent's reply until reads show it
    ramp_s: float = 0.01  # from the last acknowledgement until the next instances are asked
    registration_s: float = 1.0  # from power on until the agent answers
    interrupted_report_s: float = 60.0  # a command cut off by a power loss is reported Failed
    reboot_grace_s: float = 60.0  # exit code 194: the agent runs `shutdown -r +1`
    registration_herd: float = 0  # so many agents register at a time; 0: as many as there are
    agent_start_s: float = 3.0  # from the start of a stopped agent until it answers
    agent_restart_s: float = 7.0  # the same of a restart
    jobs_end_s: float = 1.0  # from the end of the jobs' processes at a shutdown to that of all else
    settle_s: float = 30.0  # a runner must be dead for so long before its loss is recorded
    ping_lost_s: float = 360.0  # from the last heartbeat until Online becomes ConnectionLost
    stopped_accepted: float = 0  # 1: SendCommand takes stopped instances (AWS's pages disagree)
    pending_invocations_max: float = 0  # more make a command RateExceeded; 0: no limit
    page_max: float = 0  # no page of Run Command is longer; 0: as long as asked for
    # EC2 and IAM
    pending_s: float = 0.5
    stopping_s: float = 0.5
    shutting_down_s: float = 0.5
    terminated_shown_s: float = 3600.0  # from the end of an instance until no call knows it
    reclaim_notice_s: float = 120.0  # from the notice to a spot instance until its end
    instance_visible_s: float = 0.0  # from a launch until other calls know the instances
    tags_visible_s: float = 0.0  # from a launch until the tags are shown, and match filters
    capacity: float = 0  # so many instances run at a time in a region; 0: as many as asked for
    profile_visible_s: float = 2.0  # from AddRoleToInstanceProfile until RunInstances sees it
    session_lifetime_s: float = 0  # of the credentials that STS issues; 0: as asked for
    # How many calls a second: each operation has a bucket of its own
    ssm_rate: float = 0  # SSM; 0: no limit
    iam_rate: float = 0  # IAM; 0: no limit
    ec2_throttle: float = 0  # 1: EC2 with the buckets of its page

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
                raise ValueError(f"{word!r}: expected NAME=NUMBER with one of {sorted(known)}")
            changes[name] = float(value)
        changed = replace(self, **changes)
        if changed.time_scale <= 0 or any(value < 0 for value in changes.values()):
            raise ValueError("a setting must not be negative, and the time scale not zero")
        return changed
