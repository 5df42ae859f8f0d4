"""Credentials of the user's settings that end while a command waits, the way AWS has them."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import boto3
import pytest

from tests.cloud.conftest import Pmr, own_cloud
from tests.support.commands import TRUST, events

CLUSTER = "keys"
HALF = "half"
SCRIPT = "echo on; until [ -e ~/go ]; do sleep 0.2; done; echo end"
PROCESS = "[profile work]\nregion = us-east-1\ncredential_process = /bin/cat {}\n"
FILE = "[work]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
Keys = tuple[str, str, str]
# Gives a Python process another wall clock.
WRONG_CLOCK = """
import datetime, os, time
_off_s, _time, _real = float(os.environ["CLOCK_OFF_S"]), time.time, datetime.datetime
time.time = lambda: _time() + _off_s

class _Kind(type(_real)):
    def __instancecheck__(cls, one):
        return isinstance(one, _real)

class _Wrong(_real, metaclass=_Kind):
    @classmethod
    def now(cls, tz=None):
        return _real.now(tz) + datetime.timedelta(seconds=_off_s)

datetime.datetime = _Wrong
"""
# Who watches: the words, and what shows that it does.
WATCHERS = {
    "never": (("run", "-c", SCRIPT), b"on"),
    "map": (("map", "--json", "scripts"), b'"RUNNING"'),
    "wait": (("wait", "-n", HALF), b"1 of 2 ready"),
    "wait json": (("wait", "-n", HALF, "--json"), b"1 of 2 ready"),
    "rewritten": (("run", "-c", SCRIPT), b"on"),
    "process": (("run", "-c", SCRIPT), b"on"),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """A person's AWS settings: a profile `work`, by a file or by a process."""

    home: Path
    by_process: bool

    def write(self, keys: Keys) -> None:
        """Write what a login tool writes."""
        key, secret, token = keys
        shown = {"Version": 1, "AccessKeyId": key, "SecretAccessKey": secret}
        told = FILE.format(key, secret)
        if token:
            shown["SessionToken"] = token
            told += f"aws_session_token = {token}\n"
        (self.home / "shown.json").write_text(json.dumps(shown))
        config = PROCESS.format(self.home / "shown.json") if self.by_process else "[profile work]\n"
        (self.home / "config").write_text(config)
        (self.home / "credentials").write_text("" if self.by_process else told)

    def variables(self, url: str) -> dict[str, str]:
        """Return the environment of the commands of this person."""
        return {
            "PMR_LOCAL": "0",
            "PMR_CLUSTER": CLUSTER,
            "AWS_ENDPOINT_URL": url,
            "AWS_CONFIG_FILE": str(self.home / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.home / "credentials"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True, slots=True)
class Ended:
    """How a watcher ended, and with which settings."""

    settings: Settings
    command: Pmr
    code: int
    stdout: str
    stderr: str

    @property
    def lines(self) -> list[str]:
        """Return the lines of stdout in an order."""
        return sorted(self.stdout.splitlines())


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home")) as command:
        yield command


@pytest.fixture(scope="module")
def contact(pmr: Pmr) -> dict[str, Any]:
    """Return how to reach the cloud, with a key that never ends."""
    found: dict[str, Any] = json.loads((pmr.state / "cloud.json").read_text())
    return found


def short_lived(contact: Mapping[str, Any]) -> Keys:
    where = {"endpoint_url": contact["url"], "region_name": contact["region"]}
    admin = boto3.Session(contact["access_key"], contact["secret_key"])
    keys = admin.client("sts", **where).get_session_token()["Credentials"]
    return keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"]


def half_ready(pmr: Pmr, contact: Mapping[str, Any]) -> None:
    """Make a cluster of two, of which one never gets ready: its role may do nothing."""
    where = {"endpoint_url": contact["url"], "region_name": contact["region"]}
    iam: Any = boto3.Session(contact["access_key"], contact["secret_key"]).client("iam", **where)
    iam.create_role(RoleName="mute", AssumeRolePolicyDocument=TRUST)
    iam.create_instance_profile(InstanceProfileName="mute")
    iam.add_role_to_instance_profile(InstanceProfileName="mute", RoleName="mute")
    pmr("create", "-n", HALF)
    pmr("create", "-n", HALF, "--instance-profile", "mute", "-d")


def watch_until(watching: Popen[bytes], sign: bytes) -> tuple[bytes, bytes]:
    """Read what a watcher says until there is a sign of it; return what was read."""
    read = {watching.stdout: b"", watching.stderr: b""}
    stream = watching.stderr if b"ready" in sign else watching.stdout
    assert stream is not None
    while sign not in read[stream]:
        # Past Python's buffer, which `communicate` would not read.
        data = os.read(stream.fileno(), 1 << 16)
        assert data, (watching.communicate(), read)
        read[stream] += data
    return read[watching.stdout], read[watching.stderr]


@pytest.fixture(scope="module")
def told(
    pmr: Pmr, contact: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ended]:
    """Let all credentials end under several watchers; two of them find new ones."""
    pmr("create", "-n", CLUSTER, "-N", "2")
    half_ready(pmr, contact)
    scripts = pmr.home / "scripts"
    scripts.mkdir()
    for number in range(3):
        (scripts / f"{number}").write_text("exec sleep 90\n")
    found = {}
    lasting = (contact["access_key"], contact["secret_key"], "")
    with ExitStack() as stack:
        begun = {}
        for name, (words, sign) in WATCHERS.items():
            mine = Settings(tmp_path_factory.mktemp("settings"), name == "process")
            mine.write(short_lived(contact))
            command = pmr.with_env(**mine.variables(contact["url"]))
            watching = stack.enter_context(
                command.start(*words, "--profile", "work", "-r", "us-east-1")
            )
            stack.callback(watching.kill)
            begun[name] = (mine, command, watching, sign)
        read = {name: watch_until(one[2], one[3]) for name, one in begun.items()}
        for name in ("rewritten", "process"):
            begun[name][0].write(lasting)
        assert pmr.json("local", "fault", "add", "sessions-end")["sessions"] >= len(WATCHERS)
        for name, (mine, command, watching, _) in begun.items():
            if name == "rewritten":
                # By now the others have ended, and this one goes on.
                assert watching.poll() is None
                pmr("run", "-n", CLUSTER, "-c", "touch ~/go")
            out, err = watching.communicate(timeout=60)
            both = (before + after for before, after in zip(read[name], (out, err), strict=True))
            said = [text.decode() for text in both]
            found[name] = Ended(mine, command, watching.returncode, said[0], said[1])
    return found


@pytest.mark.parametrize("name", ["rewritten", "process"])
def test_new_credentials_are_picked_up(told: dict[str, Ended], name: str) -> None:
    ended = told[name]
    assert ended.code == 0, ended.stderr
    assert ended.lines == sorted(f"[{CLUSTER}-000{n}] {w}" for n in range(2) for w in ("on", "end"))
    assert "error" not in ended.stderr


def test_without_new_ones_it_says_what_still_runs(
    told: dict[str, Ended], contact: dict[str, Any]
) -> None:
    ended = told["never"]
    assert ended.code == 5
    job = ended.stderr.partition("job ")[2].partition(":")[0]
    assert "as last seen, 2 running and 0 pending on 2 instances" in ended.stderr
    error, hint = ended.stderr.splitlines()[-2:]
    assert "credentials have expired" in error
    again = f"pmr logs -f {job} -n {CLUSTER} -r us-east-1 --profile work"
    assert hint == f"  next: log in again, then: {again}"
    ended.settings.write((contact["access_key"], contact["secret_key"], ""))
    there = ended.command(*shlex.split(again)[1:])
    assert len(there.stdout.splitlines()) == 4


def test_json_says_the_same(told: dict[str, Ended]) -> None:
    ended = told["map"]
    assert ended.code == 5
    happened = [one for one in events(ended.stdout) if "event" in one]
    (last,) = (one for one in happened if one["event"] == "unwatched")
    # How many starts had been heard of by then is a matter of moments; no task had ended.
    running = {one["task"] for one in happened if one.get("state") == "RUNNING"}
    assert (last["running"], last["pending"]) == (len(running), 3 - len(running))
    assert last["instances"] == 2
    assert last["again"] == f"pmr logs -f {last['job']} -n {CLUSTER} -r us-east-1 --profile work"
    error = events(ended.stdout)[-1]["error"]
    assert (error["exit_code"], error["kind"]) == (5, "CredentialsEnded")
    assert last["again"] in error["hint"]


def test_wait_says_who_was_ready(told: dict[str, Ended]) -> None:
    again = f"pmr wait -n {HALF} -r us-east-1 --profile work"
    ended = told["wait"]
    assert ended.code == 5
    assert f"ready, as last seen: {HALF}-0000" in ended.stderr
    assert f"not ready yet: {HALF}-0001" in ended.stderr
    assert ended.stderr.endswith(f"  next: log in again, then: {again}\n")
    as_json = told["wait json"]
    assert as_json.code == 5
    *_, last, error = events(as_json.stdout)
    assert (last["event"], last["again"]) == ("unwatched", again)
    assert (len(last["ready"]), len(last["left_out"])) == (1, 1)
    assert again in error["error"]["hint"]


@pytest.mark.parametrize("off_s", [200, -200])
def test_a_clock_that_is_a_little_wrong_does_not_matter(
    pmr: Pmr, told: dict[str, Ended], tmp_path: Path, off_s: int
) -> None:
    assert told
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    wrong = pmr.with_env(PYTHONPATH=str(tmp_path), CLOCK_OFF_S=str(off_s))
    ended = wrong("run", "-n", CLUSTER, "-i", f"{CLUSTER}-0000", "--json", "-c", "sleep 0.3")
    (task,) = events(ended.stdout)[-1]["tasks"]
    assert (task["state"], task["duration_s"] >= 0.3) == ("SUCCEEDED", True)
    wrong("status", "-n", CLUSTER)


@pytest.mark.parametrize(
    ("off_s", "said"), [(7200, "120 minutes ahead"), (-3600, "60 minutes beh")]
)
def test_a_clock_that_aws_does_not_stand_is_said(
    pmr: Pmr, tmp_path: Path, off_s: int, said: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_CLOCK)
    wrong = pmr.with_env(PYTHONPATH=str(tmp_path), CLOCK_OFF_S=str(off_s))
    ended = wrong("list", "-n", CLUSTER, check=False)
    assert ended.returncode == 5
    assert f"this machine's clock is {said}" in ended.stderr
    assert "next: set the clock" in ended.stderr
