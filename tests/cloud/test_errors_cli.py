"""What goes wrong for a person: one clear line, a next step, the designed exit code."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.commands import TRUST, Words

FAKE_KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "nothing"}
# As for somebody who has no local cloud; nothing may be asked of the network either.
AWS = {"PMR_LOCAL": "", "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1"}
DEAD = {**AWS, **FAKE_KEYS, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "us-east-1"}


@dataclass(frozen=True, slots=True)
class Mistake:
    """A command that cannot work: its words, exit code, and a part of what it says."""

    words: Words
    exit_code: int
    says: str
    env: Mapping[str, str] = field(default_factory=dict)


def mistakes(cluster: str, url: str, folder: Path) -> Iterator[tuple[str, Mistake]]:
    """Yield every mistake of this page by name."""
    yield from about_the_cloud(cluster, url)
    yield from about_words(cluster, folder)


def about_the_cloud(cluster: str, url: str) -> Iterator[tuple[str, Mistake]]:
    """Yield what only the cloud, or the way to it, can say no to."""
    on = ("-n", cluster)
    run = ("run", *on)
    yield "unknown cluster", Mistake(("run", "-n", "nowhere", "--", "true"), 3, "nowhere")
    yield "unknown id", Mistake((*run, "-i", "i-0123456789abcdef0", "-c", "id"), 3, "i-0123456789")
    yield "unknown name", Mistake((*run, "-i", f"{cluster}-0099", "-c", "id"), 3, "-0099")
    yield "unknown job", Mistake(("status", "no-such-job", *on), 3, "no-such-job")
    yield "status elsewhere", Mistake(("status", "-n", "nowhere"), 3, "nowhere")
    yield "nothing to end", Mistake(("terminate", "-n", "nowhere", "--yes"), 3, "nowhere")
    yield "no confirmation", Mistake(("terminate", *on), 2, "--yes")
    yield "no credentials", Mistake((*run, "-c", "id"), 5, "credentials", AWS)
    nowhere = {**AWS, **FAKE_KEYS, "AWS_ENDPOINT_URL": "", "AWS_REGION": "no-where"}
    yield "no such region", Mistake((*run, "-c", "id"), 5, "no-where", nowhere)
    yield "dead endpoint", Mistake((*run, "-c", "id"), 5, "no answer", DEAD)
    yield "dead, list", Mistake(("list",), 5, "no answer", DEAD)
    refused = {**DEAD, "AWS_ENDPOINT_URL": url}
    yield "refused", Mistake((*run, "-c", "id"), 5, "credentials", refused)
    yield "no profile", Mistake(("list", "--profile", "nobody"), 5, "nobody", AWS)


def about_words(cluster: str, folder: Path) -> Iterator[tuple[str, Mistake]]:
    """Yield words that make no sense, or name what is not on this machine."""
    on = ("-n", cluster)
    run = ("run", *on)
    yield "no script", Mistake((*run, "-s", "not-there.sh"), 2, "not-there.sh")
    yield "script is a folder", Mistake((*run, "-s", folder), 2, str(folder))
    yield "none to make", Mistake(("create", "-n", "new", "-N", "0"), 2, "-N")
    yield "backwards", Mistake((*run, "--timeout", "-1", "-c", "id"), 2, "--timeout")
    yield "forbidden name", Mistake(("run", "-n", "a b/c", "-c", "id"), 2, "a b/c")
    yield "no name", Mistake(("run", "-c", "id"), 2, "--name")
    yield "two ways", Mistake((*run, "-c", "id", "--", "id"), 2, "exactly one")
    yield "no way", Mistake(run, 2, "exactly one")
    yield "detached in turn", Mistake((*run, "-d", "-j", "1", "-c", "id"), 2, "-j")
    yield "no directory", Mistake(("map", *on, folder / "missing"), 2, "does not exist")
    (folder / "empty").mkdir()
    (folder / "empty" / ".hidden").write_text("true\n")
    yield "empty directory", Mistake(("map", *on, folder / "empty"), 2, "no scripts")
    yield "file for directory", Mistake(("map", *on, folder / "empty/.hidden"), 2, "not a dir")
    yield "nothing to map", Mistake(("map", *on), 2, "which directory")
    yield "no slots", Mistake(("map", *on, folder / "empty", "--slots", "0"), 2, "slots")
    yield "our variable", Mistake((*run, "--env", "PMR_JOB_ID=x", "-c", "id"), 2, "PMR_JOB_ID")
    yield "no variable", Mistake((*run, "--env", "nothing", "-c", "id"), 2, "--env")
    yield "no helper file", Mistake((*run, "--files", "gone", "-c", "id"), 2, "gone")
    yield "no job id", Mistake((*run, "--job-id", "x", "-c", "id"), 2, "job id")
    yield "no command", Mistake(("rum", *on), 2, "did you mean run")
    yield "no option", Mistake((*run, "--forever", "-c", "id"), 2, "--forever")
    yield "ssh", Mistake(("ssh", *on), 2, "pmr run")


IN_JSON = {
    "unknown cluster",
    "unknown id",
    "no credentials",
    "dead endpoint",
    "refused",
    "no script",
    "none to make",
    "backwards",
    "forbidden name",
    "two ways",
    "empty directory",
}
Told = Mapping[str, tuple[Mistake, subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def told(pmr: Pmr, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Mapping[bool, Told]:
    """Return how every mistake ended; some also where JSON was asked for, by that."""
    url = json.loads((pmr.state / "cloud.json").read_text())["url"]
    made = dict(mistakes(cluster, url, tmp_path_factory.mktemp("mistakes")))
    # There is one place that prints errors: some of each kind show that it can do both.
    both = {True: {name: made[name] for name in IN_JSON}, False: made}

    def make(one: Mistake, *, as_json: bool) -> subprocess.CompletedProcess[str]:
        words = [one.words[0], *["--json"] * as_json, *one.words[1:]]
        return pmr.with_env(**one.env)(*words, check=False, timeout_s=150)

    # Those without a way to AWS wait for a minute; none waits for another.
    with ThreadPoolExecutor(8) as pool:
        ends = {
            as_json: {name: pool.submit(make, one, as_json=as_json) for name, one in some.items()}
            for as_json, some in both.items()
        }
        return {
            as_json: {name: (made[name], end.result()) for name, end in some.items()}
            for as_json, some in ends.items()
        }


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_every_mistake_is_told_clearly(told: Mapping[bool, Told], *, as_json: bool) -> None:
    wrong = []
    for name, (mistake, ended) in told[as_json].items():
        message, hint = _message(ended, as_json=as_json)
        if (
            ended.returncode != mistake.exit_code
            or mistake.says not in f"{message} {hint}"
            or not hint
            or "\n" in message
            or "Traceback" in ended.stderr + ended.stdout
        ):
            wrong.append(f"{name}: {ended.returncode} {ended.stdout!r} {ended.stderr!r}")
    assert wrong == []


def _message(ended: subprocess.CompletedProcess[str], *, as_json: bool) -> tuple[str, str]:
    """Return the one error that was told and its next step, or nothing."""
    if as_json:
        try:
            error = json.loads(ended.stdout)["error"]
        except (ValueError, KeyError, TypeError):
            return "", ""
        return error["message"], error["hint"]
    lines = ended.stderr.splitlines()
    messages = [line for line in lines if line.startswith("error: ")]
    hints = [line for line in lines if line.startswith("  next: ")]
    if len(messages) != 1 or len(hints) != 1:
        return "", ""
    return messages[0], hints[0]


def test_instances_that_cannot_take_work(pmr: Pmr, client: ClientFactory) -> None:
    # Its role may do nothing, so that the agent is never online.
    iam = client("iam")
    iam.create_instance_profile(InstanceProfileName="silent")
    iam.create_role(RoleName="silent", AssumeRolePolicyDocument=TRUST)
    iam.add_role_to_instance_profile(InstanceProfileName="silent", RoleName="silent")
    pmr("create", "-n", "resting", "-N", "2")
    pmr("create", "-n", "resting", "-N", "1", "-d", "--instance-profile", "silent")
    silent = pmr("run", "-n", "resting", "-i", "resting-0002", "--", "true", check=False)
    assert silent.returncode == 4
    assert "resting-0002 is not ready: " in silent.stderr
    assert "its agent has not reported" in silent.stderr or "pending" in silent.stderr
    assert "  next: pmr wait -n resting" in silent.stderr

    one = "resting-0001"
    both = ("-i", "resting-0000", "-i", one)
    pmr("run", "-n", "resting", *both, "--job-name=early", "-c", 'echo early "$PMR_HOST_INDEX"')
    pmr("pause", "-n", "resting", "-i", one)
    some = pmr("run", "-n", "resting", "-c", "echo here", check=False)
    assert (some.returncode, some.stdout) == (4, "[resting-0000] here\n")
    assert f"[{one}] left out: " in some.stderr
    alone = pmr("run", "-n", "resting", "-i", one, "-c", "echo here", check=False)
    assert (alone.returncode, alone.stdout) == (4, "")
    assert alone.stderr.count("error: ") == 1
    assert "stopped" in alone.stderr
    assert "  next: pmr " in alone.stderr
    for words in (("logs", "early"), ("logs", "early", "--tail=1")):
        early = pmr(*words, "-n", "resting", check=False)
        assert (early.returncode, early.stdout) == (4, "[resting-0000] early 0\n")
    pmr("terminate", "-n", "resting", "--yes")


def test_the_local_cloud_of_the_wrong_folder(tmp_path: Path) -> None:
    down = Pmr(tmp_path, tmp_path / "none")
    told = down("local", "status", check=False)
    assert told.returncode == 4
    assert "  next: pmr local up" in told.stderr
