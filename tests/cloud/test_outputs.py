"""What tasks write into PMR_OUTPUT_DIR comes back byte for byte, and nothing else does."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from tests.cloud.conftest import ClientFactory, Pmr

BUCKET = "pmr-test-outputs"
HOSTILE = "a b\n'c' \"d\" $(id) \\ *ü"
WRITE = r"""#!/bin/bash
set -e
cd "$PMR_OUTPUT_DIR"
head -c 20000 /dev/urandom >"$PMR_ENTRY"
chmod 700 "$PMR_ENTRY"
mkdir -p deep/er
: >deep/er/empty
printf 'line\n%.0s' {1..5000} >deep/text
ln -s /etc/shadow shadow
ln -s /etc deep/etc
mkfifo pipe
mkdir locked && chmod 0 locked
: >.closed && chmod 0 .closed
[[ $PMR_TASK_ATTEMPT != 1 || $PMR_TASK_ID != 1 ]] || { : >first; exit 1; }
sha256sum -- "$PMR_ENTRY"; id -u; stat -c %u .
"""


def submitted(pmr: Pmr, cluster: str, *words: str | Path, stdin: str = "") -> str:
    """Map and return the job's id."""
    told = pmr("map", "-n", cluster, "--json", *words, stdin=stdin)
    return str(json.loads(told.stdout.splitlines()[-1])["job"])


def files_below(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, links too."""
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def job(pmr: Pmr, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a map of three tasks, one on each instance, the second of which had to run twice."""
    folder = tmp_path_factory.mktemp("task")
    (folder / "write").write_text(WRITE)
    (folder / "names.json").write_text(json.dumps([HOSTILE] * 3))
    words = ("--from-json", folder / "names.json", "-s", folder / "write", "--retries", "1")
    return submitted(pmr, cluster, *words)


def test_every_file_comes_and_no_link(pmr: Pmr, cluster: str, job: str, tmp_path: Path) -> None:
    told = pmr("results", job, "-n", cluster, "-o", tmp_path, "--outputs", "**")
    assert "9 output files" in told.stdout
    found = files_below(tmp_path / "outputs")
    wanted = {
        f"{task}/{name}" for task in range(3) for name in (HOSTILE, "deep/er/empty", "deep/text")
    }
    assert found.keys() == wanted
    for task in range(3):
        log = (tmp_path / (f"{task}.log" if task != 1 else "1.2.log")).read_text()
        assert hashlib.sha256(found[f"{task}/{HOSTILE}"]).hexdigest() in log
        # Whose folder it is, is who runs the task.
        assert len(set(log.splitlines()[-2:])) == 1
        assert found[f"{task}/deep/text"] == b"line\n" * 5000
    outputs = tmp_path / "outputs/0"
    assert (outputs / HOSTILE).stat().st_mode & 0o111
    assert not (outputs / "deep/text").stat().st_mode & 0o111


def test_a_pattern_chooses(pmr: Pmr, cluster: str, job: str, tmp_path: Path) -> None:
    told = pmr.raw("results", job, "-n", cluster, "-o", tmp_path, "--outputs", "deep/t*", "--json")
    assert json.loads(told.stdout.splitlines()[-1])["outputs"] == {"files": 3, "bytes": 75_000}
    assert files_below(tmp_path / "outputs").keys() == {f"{task}/deep/text" for task in range(3)}
    words = ("results", job, "-n", cluster, "-o", tmp_path, "--outputs")
    # What a link leads to is not there either, and not what only an earlier attempt wrote.
    for pattern in ("deep/etc/passwd", "first"):
        nothing = pmr(*words, pattern, check=False)
        assert nothing.returncode == 3
        assert "--outputs '**' takes all" in nothing.stderr
    closed = pmr(*words, ".closed", check=False)
    assert closed.returncode == 4
    counts = re.findall(r"(\d) that the tasks' own user cannot read", closed.stderr)
    assert sum(map(int, counts)) == 3
    assert pmr(*words, "../../*", check=False).returncode == 2


def test_what_is_large_comes_by_a_bucket(
    pmr: Pmr, cluster: str, client: ClientFactory, tmp_path: Path
) -> None:
    write = (
        'head -c 3000000 /dev/urandom >"$PMR_OUTPUT_DIR/large"; sha256sum <"$PMR_OUTPUT_DIR/large"'
    )
    job = submitted(pmr, cluster, "--array", "0-2", "-c", write)
    words = ("results", job, "-n", cluster, "-o", tmp_path, "--outputs", "large")
    refused = pmr(*words, check=False)
    assert refused.returncode == 2
    assert "--bucket NAME" in refused.stderr
    assert "1 files, 2.9 MiB, about" in refused.stderr
    missing = pmr(*words, "--bucket", "pmr-no-such-bucket", check=False)
    assert missing.returncode == 5
    assert "aws s3 mb" in missing.stderr
    s3 = client("s3")
    s3.create_bucket(Bucket=BUCKET)
    pmr(*words, "--bucket", BUCKET)
    for task, data in files_below(tmp_path / "outputs").items():
        log = (tmp_path / f"{task.split('/')[0]}.log").read_text()
        assert hashlib.sha256(data).hexdigest() in log
    assert len(files_below(tmp_path / "outputs")) == 3
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET)
