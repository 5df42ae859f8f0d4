"""Every error of the program: its exit code, its message and what to type next."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of `pmr`; `run` on one instance passes the task's own code instead."""

    OK = 0
    WORK_FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    NOT_REACHED = 4
    AWS_REFUSED = 5
    BUG = 70
    TIMED_OUT = 124
    # What a shell reports of a program that a signal ended: 128 + its number.
    HUNG_UP = 129
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


# The codes of a command that a signal ended, and the signal's name.
INTERRUPTIONS = {
    ExitCode.HUNG_UP: "SIGHUP",
    ExitCode.INTERRUPTED: "SIGINT",
    ExitCode.TERMINATED: "SIGTERM",
}


class PmrError(Exception):
    """An error that a person can act on.

    `message` says what failed, where and why, on one line; `hint` is the next thing to type.
    """

    exit_code: ExitCode = ExitCode.BUG

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageProblem(PmrError):
    """The words of the command line do not make sense together, or name a missing local file."""

    exit_code = ExitCode.USAGE


class Unwritable(UsageProblem):
    """What the user wants cannot be written: to stdout, or to a file or folder of their choice."""


class ReaderGone(PmrError):
    """Nobody reads stdout any more: `pmr list | head` is no error."""

    exit_code = ExitCode.READER_GONE


class Signalled(KeyboardInterrupt):
    """A signal asks the program to end; `exit_code` is one of INTERRUPTIONS."""

    def __init__(self, exit_code: ExitCode) -> None:
        super().__init__(INTERRUPTIONS[exit_code])
        self.exit_code = exit_code


def interruption(error: KeyboardInterrupt) -> tuple[str, ExitCode]:
    """Return what interrupted the program, in words, and the exit code of that."""
    code = error.exit_code if isinstance(error, Signalled) else ExitCode.INTERRUPTED
    word = "interrupted" if code == ExitCode.INTERRUPTED else f"ended by {INTERRUPTIONS[code]}"
    return word, code


class EarlierFailed(PmrError):
    """A job that another was to come after did not succeed."""

    exit_code = ExitCode.WORK_FAILED


class NotFound(PmrError):
    """No such cluster, instance, job or task."""

    exit_code = ExitCode.NOT_FOUND


class NotReached(PmrError):
    """An instance is not ready, did not take the work, could not start it, or was lost."""

    exit_code = ExitCode.NOT_REACHED


class JobConflict(NotReached):
    """A job id stands for two submissions: other content, or other instances."""


class AwsRefused(PmrError):
    """AWS said no: credentials, permission, quota, capacity, or no endpoint answers.

    `code` is the service's own error code (for example AccessDeniedException), or "".
    `had_no_effect`: the call that failed certainly changed nothing.
    """

    exit_code = ExitCode.AWS_REFUSED
    had_no_effect = False

    def __init__(self, message: str, hint: str = "", *, code: str = "") -> None:
        super().__init__(message, hint)
        self.code = code


class Denied(AwsRefused):
    """A policy does not allow the call, or forbids it."""

    had_no_effect = True


class CredentialsEnded(AwsRefused):
    """The credentials were good once, and there are no others yet."""

    had_no_effect = True


class SettingRefused(AwsRefused):
    """The user's own AWS settings cannot work: no request was sent."""

    had_no_effect = True


class InvalidInstances(AwsRefused):
    """SSM refused a whole send because at least one of its instances is not a managed one.

    Source: SendCommand's InvalidInstanceId error; it does not reliably say which instance.
    """


class Outage(AwsRefused):
    """AWS, the way to it or the source of the credentials fails for now; it was waited for."""


class CredentialsFailed(Outage):
    """No credentials can be had where the settings say: a helper failed, or nobody is logged in."""

    had_no_effect = True


class NoAnswer(Outage):
    """Nothing came back from AWS: whether the call did something is not known."""


class Throttled(Outage):
    """AWS has refused a call as one too many, again and again; nothing was done."""


class NoCapacity(AwsRefused):
    """EC2 has no room for this many instances of this type in this zone now."""


class InstanceUnseen(AwsRefused):
    """EC2 does not know an instance (yet); right after a launch that passes.

    Source: EC2's eventual consistency; the error InvalidInstanceID.NotFound.
    """


class ProfileUnseen(AwsRefused):
    """EC2 does not see the instance profile (yet); IAM takes a while to tell it.

    Source: RunInstances' InvalidParameterValue "Invalid IAM Instance Profile name".
    """
