"""The words of the command line that several commands share, turned into values of ours."""

from __future__ import annotations

import functools
import getpass
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

from poormanray.cli.output import Output
from poormanray.errors import UsageProblem
from poormanray.model import CLUSTER_NAME

if TYPE_CHECKING:
    from poormanray.aws.session import Aws

P = ParamSpec("P")
R = TypeVar("R")
Decorated = Callable[..., R]

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhd]))+")
_DURATION_WORD = rf"\d+(?:\.\d+)?|{_DURATION.pattern}"
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PERCENT = re.compile(r"(\d{1,6})%", re.ASCII)
WHOLE = 100
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_BYTES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_REGION = re.compile(r"[a-z]{2,8}(-[a-z0-9]+)+")


# Arguments of which only the first word is a name: the others belong to the user's program, and
# an empty word is one of its arguments, or an entry.
_PROGRAM_WORDS = {"words"}


class Command(click.Command):
    """A command that takes no empty word for anything.

    An empty word comes from a variable without a value (`--job "$JOB"`), and each thing would
    have a meaning of its own for it: all jobs, the newest one, the working directory.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words of the command line.

        Raises:
            click.BadParameter: one that names something is empty, or blanks only.
        """
        if not ctx.resilient_parsing:
            given, _, _ = self.make_parser(ctx).parse_args(list(args))
            if not given.get("help"):
                self._refuse_empty(ctx, given)
        return super().parse_args(ctx, args)

    def _refuse_empty(self, ctx: click.Context, given: Mapping[str, object]) -> None:
        for parameter in self.params:
            value = given.get(parameter.name or "")
            words = list(value) if isinstance(value, list | tuple) else [value]
            if parameter.name in _PROGRAM_WORDS:
                # Before `:::` there need not be a program.
                words = words[:1]
            if any(isinstance(word, str) and not word.strip() for word in words):
                raise click.BadParameter(
                    "the word is empty (a variable without a value?)", ctx, parameter
                )


class Group(click.Group):
    """A group of such commands."""

    command_class = Command
    group_class = type


class App:
    """What a command works with: its voice, and the cloud it talks to.

    The cloud is found (and the local one started) on first use of `aws`, so that bad words
    fail before anything is called.
    """

    def __init__(
        self, *, out: Output, region: str | None, profile: str | None, local: bool
    ) -> None:
        if local and profile:
            raise UsageProblem(
                "--profile belongs to AWS, and this command talks to the local cloud",
                "leave out one of --profile and --local (or unset PMR_LOCAL)",
            )
        self.out = out
        self.local = local
        self._region = region
        self._profile = profile

    @functools.cached_property
    def aws(self) -> Aws:
        """Return the cloud of this command; the local one is named on stderr and started."""
        from poormanray.aws.session import Aws

        endpoint = None
        if self.local:
            from poormanray.cli.local import endpoint as local_endpoint

            endpoint = local_endpoint()
            self.out.note(f"local cloud at {endpoint.url.partition('//')[2].rstrip('/')}")
        aws = Aws(region=self._region, profile=self._profile, endpoint=endpoint)
        aws.outages.report = self.out.outage
        aws.on_silence = self.out.silence
        return aws

    def command_line(self, *words: object) -> str:
        """Return `pmr WORDS` for a shell, for the same cloud as this command: the next to type."""
        given = [
            *(("-r", self._region) if self._region else ()),
            *(("--profile", self._profile) if self._profile else ()),
            *(("--local",) if self.local else ()),
        ]
        return shlex.join(["pmr", *(str(word) for word in words), *given])

    def environment(self) -> dict[str, str]:
        """Return the variables with which a program talks to the same cloud as this command."""
        given = {"AWS_REGION": self._region, "AWS_PROFILE": self._profile}
        return {
            **{k: v for k, v in given.items() if v},
            **({"PMR_LOCAL": "1"} if self.local else {}),
        }


class Duration(click.ParamType[float]):
    """A time span such as `90`, `30m` or `1h30m`, as seconds, more than 0."""

    name = "duration"

    def convert(
        self, value: str | float, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the seconds that the words mean."""
        if isinstance(value, int | float):
            return float(value)
        text = value.strip().lower()
        if re.fullmatch(r"\d+(\.\d+)?", text):
            text += "s"
        if not _DURATION.fullmatch(text):
            self.fail(f"{value!r} is not a time such as 90, 30m or 1h30m", param, ctx)
        seconds = sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text))
        if seconds <= 0:
            self.fail(f"{value!r} must be more than 0 seconds", param, ctx)
        return seconds


@dataclass(frozen=True, slots=True)
class Percent:
    """A time limit as a part of the median time of a job's tasks."""

    value: int

    def __str__(self) -> str:
        """Return it as it is typed."""
        return f"{self.value}%"


class TimeLimit(click.ParamType["float | Percent"]):
    """A time such as `30m`, in seconds, or a part of the median such as `200%`."""

    name = "duration"

    def convert(
        self, value: str | float | Percent, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | Percent:
        """Return the seconds or percent that the words mean."""
        if isinstance(value, Percent):
            return value
        found = isinstance(value, str) and _PERCENT.fullmatch(value.strip())
        if not found:
            return DURATION.convert(value, param, ctx)
        if int(found[1]) <= WHOLE:
            self.fail(f"{value!r} ends half of all tasks: take more than 100%", param, ctx)
        return Percent(int(found[1]))


def is_duration(words: Sequence[str]) -> bool:
    """Say whether there is a word, and it is a time span."""
    return bool(words) and re.fullmatch(_DURATION_WORD, words[0].strip().lower()) is not None


class Count(click.ParamType[int]):
    """A whole number, 1 or more."""

    name = "count"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the number."""
        try:
            number = int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number", param, ctx)
        if number < 1:
            self.fail(f"{number} is too small: it must be 1 or more", param, ctx)
        return number


class KeyValue(click.ParamType[tuple[str, str]]):
    """A pair such as `KEY=some value`; the key is a variable name."""

    name = "key=value"

    def convert(
        self,
        value: str | tuple[str, str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> tuple[str, str]:
        """Return key and value."""
        if isinstance(value, tuple):
            return value
        key, equals, rest = value.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            self.fail(f"{value!r} is not KEY=VALUE with a variable name as its key", param, ctx)
        if "\0" in rest:
            self.fail(f"the value of {key} holds a NUL byte", param, ctx)
        return key, rest


class Size(click.ParamType[int]):
    """An amount of data such as `500`, `64k`, `10M` or `2GiB`, as bytes (units of 1024)."""

    name = "size"

    def convert(
        self, value: str | int, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Return the bytes that the words mean."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(value.strip())
        if found is None:
            self.fail(f"{value!r} is not a size such as 500, 64k, 10M or 2G", param, ctx)
        return int(float(found[1]) * _BYTES[found[2].lower()])


DURATION = Duration()
TIME_LIMIT = TimeLimit()
COUNT = Count()
KEY_VALUE = KeyValue()
SIZE = Size()


def _cluster_name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not CLUSTER_NAME.fullmatch(value):
        raise click.BadParameter(
            f"{value!r} is not a cluster name: use letters, digits, '.', '_' and '-', "
            "a letter or digit first, at most 100 of them"
        )
    return value


def _region(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _REGION.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not a region name such as us-east-1")
    return value


def _no_ssh(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    if value is not None:
        # To GNU parallel it is a flag: what follows it is the first word of the command.
        there = os.path.exists(os.path.expanduser(value))  # noqa: PTH110, PTH111 (Path's raise)
        if ctx.command.name == "map" and not there:
            raise UsageProblem(
                f"-k takes the key file of old scripts, and there is no file {value!r}",
                "leave -k out: no SSH is used; pmr logs JOB shows output by task",
            )
        Output().note("-k/--ssh-key-path has no effect: no SSH is used, so no key is needed")


def _owner() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return f"uid-{os.getuid()}"


def aws_options(command: Callable[Concatenate[App, P], R]) -> Decorated[R]:
    """Add `-r --profile --local --json` to a command, and hand it an `App` as first argument.

    It stands directly above the function, so that its options come last in the help.
    """

    @click.option("-r", "--region", callback=_region, help="AWS region (else AWS's own settings).")
    @click.option("--profile", help="Profile of your AWS settings.")
    @click.option("--local", is_flag=True, help="Talk to the local cloud, not to AWS.")
    @click.option("--json", is_flag=True, help="Print JSON on stdout.")
    @functools.wraps(command)
    def with_app(*args: P.args, **words: P.kwargs) -> R:
        region, profile = words.pop("region"), words.pop("profile")
        root = click.get_current_context().find_root()
        local = bool(words.pop("local")) or bool(root.params.get("local"))
        out = Output(json=bool(words.pop("json")))
        app = App(
            out=out,
            region=region if isinstance(region, str) else None,
            profile=profile if isinstance(profile, str) else None,
            local=local,
        )
        return command(app, *args, **words)

    return with_app


def cluster_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-n/--name NAME` to a command, required; the command gets `name`."""
    return click.option(
        "-n",
        "--name",
        metavar="NAME",
        required=True,
        envvar="PMR_CLUSTER",
        callback=_cluster_name,
        help="Name of the cluster.",
        show_envvar=True,
    )(command)


def optional_cluster_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-n/--name NAME` to a command that works without it too; it gets `name` or None."""
    return click.option(
        "-n",
        "--name",
        metavar="NAME",
        envvar="PMR_CLUSTER",
        callback=_cluster_name,
        help="Name of the cluster (else all).",
        show_envvar=True,
    )(command)


def instance_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-i/--instance-id ID`, repeatable, to a command; it gets `instance_ids`, a tuple."""
    return click.option(
        "-i",
        "--instance-id",
        "instance_ids",
        multiple=True,
        metavar="ID",
        help="Only this instance, by id or name; repeatable.",
    )(command)


def owner_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-o/--owner` to a command; it gets `owner`."""
    return click.option(
        "-o",
        "--owner",
        default=_owner,
        show_default="your user name",
        help="Who answers for it.",
    )(command)


def detach_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-d/--detach` (and `-nd/--no-detach`) to a command; it gets `detach`."""
    return click.option(
        "-d/-nd", "--detach/--no-detach", default=False, help="Start it and do not wait."
    )(command)


def wait_timeout_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-T/--wait-timeout` to a command that waits for agents; it gets `wait_timeout`, in s."""
    return click.option(
        "-T",
        "--wait-timeout",
        type=DURATION,
        default="10m",
        show_default=True,
        help="Stop watching after this time.",
    )(command)


def yes_option(command: Decorated[R]) -> Decorated[R]:
    """Add `-y/--yes` to a command that asks; it gets `yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do it without asking.")(command)


def ssh_key_option(command: Decorated[R]) -> Decorated[R]:
    """Accept the `-k/--ssh-key-path` of old scripts, hidden, and say that it has no effect."""
    return click.option("-k", "--ssh-key-path", hidden=True, expose_value=False, callback=_no_ssh)(
        command
    )
