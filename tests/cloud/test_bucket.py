"""Content and outputs by a bucket: what is too large for a few sends, and nothing that stays."""

from __future__ import annotations

import base64
import hashlib
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from poormanray.manifest import SHORT_DIGITS
from poormanray.shell import Bundle, Call
from tests.cloud.conftest import ClientFactory, Pmr
from tests.support.machine import ME, Machine, bundled, ends, machine, made

__all__ = ["machine"]

BUCKET = "pmr-test-content"
Cluster = Callable[[str, int], str]


@pytest.fixture(scope="module")
def bucket(client: ClientFactory) -> str:
    client("s3").create_bucket(Bucket=BUCKET)
    return BUCKET


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file that no compression makes smaller."""
    path = tmp_path_factory.mktemp("large") / "noise"
    path.write_bytes(secrets.token_bytes(300_000))
    return path


def sends(pmr: Pmr) -> int:
    """Return how many commands were sent so far."""
    return int(pmr.json("local", "status")["calls"]["ssm"].get("SendCommand", 0))


def contents(client: ClientFactory) -> list[str]:
    """Return the keys that are in the bucket."""
    found = client("s3").list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return [entry["Key"] for entry in found]


def kept(pmr: Pmr) -> dict[Path, bytes]:
    """Return every file that the cloud and its instances keep: ledgers, logs, what agents store."""
    found = {}
    for path in pmr.state.rglob("*"):
        # What ends meanwhile takes its files along.
        with suppress(OSError):
            if path.is_file():
                found[path] = path.read_bytes()
    return found


def test_large_content_goes_in_one_send(
    pmr: Pmr, cluster: str, bucket: str, client: ClientFactory, large: Path
) -> None:
    before = sends(pmr)
    told = pmr(
        "run", "-d", "-n", cluster, "--files", large, "--bucket", bucket, "--", "sha256sum", "noise"
    )
    assert sends(pmr) == before + 1
    assert "through bucket pmr-test-content" in told.stderr
    assert contents(client) == []
    job = told.stdout.strip()
    digest = hashlib.sha256(large.read_bytes()).hexdigest()
    logs = pmr("logs", "-f", job, "-n", cluster)
    assert logs.stdout.count(digest) == 3
    files = kept(pmr)
    assert any(path.match(f"jobs/{job}/events") for path in files)
    assert not [path for path, data in files.items() if b"X-Amz-Signature" in data]
    sent = client("ssm").list_commands()["Commands"]
    assert not any("X-Amz" in command["Comment"] for command in sent)


def test_who_cannot_fetch_gets_parts(
    pmr: Pmr, cluster: str, bucket: str, client: ClientFactory, large: Path
) -> None:
    lost = ("lost-request", "--operation", "s3:GET object", "--count", "2")
    pmr("local", "fault", "add", *lost)
    told = pmr(
        "run", "-n", cluster, "--files", large, "--bucket", bucket, "--", "sha256sum", "noise"
    )
    pmr("local", "fault", "clear")
    assert told.stderr.count("could not fetch the content from the bucket") == 2
    assert "it gets it in 10 sends, about" in told.stderr
    assert told.stdout.count(hashlib.sha256(large.read_bytes()).hexdigest()) == 3
    assert contents(client) == []


def test_nothing_stays_after_an_interruption(
    pmr: Pmr, cluster: str, bucket: str, client: ClientFactory, large: Path
) -> None:
    client_process = pmr.start(
        "run", "-n", cluster, "-j", "1", "--files", large, "--bucket", bucket, "--", "sleep", "50"
    )
    deadline_s = time.monotonic() + 30
    # One instance at a time: the others still need it.
    while sends_seen(pmr, cluster) < 1 and time.monotonic() < deadline_s:
        time.sleep(0.1)  # noqa: TID251 (another process is to get there)
    assert len(contents(client)) == 1
    client_process.send_signal(signal.SIGINT)
    _, stderr = client_process.communicate(timeout=30)
    pmr("cancel", "last", "-n", cluster)
    assert client_process.returncode == 130, stderr
    assert contents(client) == []


def sends_seen(pmr: Pmr, cluster: str) -> int:
    """Return how many tasks of jobs run."""
    return sum(job["counts"]["running"] for job in pmr.json("jobs", "-n", cluster))


def test_a_bucket_that_is_not_there(pmr: Pmr, cluster: str, large: Path) -> None:
    words = ("run", "-n", cluster, "--files", large, "--bucket")
    missing = pmr(*words, "pmr-no-such-bucket", "--", "true", check=False)
    assert missing.returncode == 5
    assert "NoSuchBucket" in missing.stderr
    assert "aws s3 mb s3://BUCKET" in missing.stderr
    assert pmr(*words, "No_Bucket", "--", "true", check=False).returncode == 2


def test_a_dry_run_tells_the_way_and_the_time(pmr: Pmr, cluster: str, large: Path) -> None:
    words = ("map", "-n", cluster, "--dry-run", "--array", "0-5", "-c", "true", "--files", large)
    assert "10 sends of content first, about 9 s" in pmr(*words).stdout
    plan = pmr.with_env(PMR_BUCKET=BUCKET).json(*words)
    assert (plan["transport"], plan["parts"], plan["seconds"]) == ("bucket", 0, 0.0)
    small = pmr.json(*words[:-2], "--bucket", BUCKET)
    assert (small["transport"], small["bytes"] < 1000) == ("inline", True)


def test_an_instance_without_curl_says_so(machine: Machine, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for folder in machine.path.split(":"):
        for program in Path(folder).glob("*"):
            if program.name != "curl" and not (programs / program.name).exists():
                (programs / program.name).symlink_to(program)
    without = Machine(machine.folder, str(programs))
    job = made('printf content >"$PMR_OUTPUT_DIR/file"')
    whole = bundled(job)
    absent = replace(whole, data=b"", parts=1, source="http://127.0.0.1:1/secret")
    assert without.start(job, bundle=absent).facts["refused"] == "no-curl"
    answer = machine.start(job, bundle=absent)
    assert answer.facts["refused"] == "fetch"
    # The address opens the object: what curl complains of does not hold it.
    assert b"curl: (7)" in base64.b64decode(answer.facts["stderr"])
    assert b"secret" not in base64.b64decode(answer.facts["stderr"])
    part = Bundle(whole.data, whole.digest)
    without.send(Call("put", (job.job_id, "0", whole.digest[:SHORT_DIGITS]), 0, bundle=part))
    assert without.start(job, bundle=absent).facts["committed"] == "now"
    assert ends(machine.ended(job)) == 1
    outputs = Call("outputs", (job.job_id, "**", "1000"), 0, {ME: absent.source})
    assert without.send(outputs).facts["refused"] == "no-curl"
    answer = machine.send(outputs)
    assert (answer.facts["refused"], answer.facts["found"]) == ("give", "1 7")
    assert b"secret" not in base64.b64decode(answer.facts["stderr"])
    # What nobody will fetch does not fill the disk.
    assert not (machine.ledger(job) / "pack").exists()
