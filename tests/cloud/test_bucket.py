"""Content and outputs by a bucket: what is too large for a few sends, and nothing that stays."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cloud.conftest import ClientFactory, Pmr

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


def ledgers(pmr: Pmr) -> list[Path]:
    """Return every file that instances keep, scripts and content excepted."""
    files = [path for path in pmr.state.rglob("var/lib/pmr/**/*") if path.is_file()]
    return [path for path in files if path.name not in ("content", "noise")]


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
    kept = ledgers(pmr)
    assert len(kept) > 10
    assert not any(b"X-Amz-Signature" in path.read_bytes() for path in kept)
    sent = client("ssm").list_commands()["Commands"]
    assert not any("X-Amz" in command["Comment"] for command in sent)


def test_without_curl_content_comes_in_parts(
    pmr: Pmr, cluster: str, bucket: str, client: ClientFactory, large: Path
) -> None:
    pass
