"""The demo's program: parts and whole agree, and a spoiled part is found out."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from pathlib import Path

import pytest

from scripts import count_tokens
from scripts.reference import REPO


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which three parts of a small library were counted."""
    library = tmp_path / "library"
    library.mkdir()
    for number in range(6):
        (library / f"m{number}.py").write_text(
            f"value_{number} = {number}\nprint(value_{number})\n"
        )
    (library / "broken.py").write_bytes(b"# coding: no-such-coding\n")
    monkeypatch.setattr(sysconfig, "get_path", lambda _name: str(library))
    count_tokens.split(tmp_path / "parts", 3)
    (tmp_path / "results").mkdir()
    for script in sorted((tmp_path / "parts").iterdir()):
        ended = subprocess.run([script], capture_output=True, check=True)
        (tmp_path / "results" / f"{script.name}.log").write_bytes(ended.stdout)
    return tmp_path


def compare(folder: Path) -> None:
    count_tokens.compare(folder / "results", folder / "parts.list")


def test_merged_parts_equal_one_process(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(counted)
    said = capsys.readouterr().out
    assert "EQUAL" in said
    assert "7 files" in said
    assert "does not tokenise: " + str(counted / "library/broken.py") in said


def test_a_spoiled_part_is_named(counted: Path) -> None:
    log = counted / "results/part-01.log"
    part = json.loads(log.read_text().splitlines()[0])
    part["identifiers"]["print"] += 1
    log.write_text(json.dumps(part) + "\n")
    with pytest.raises(SystemExit, match="NOT EQUAL: print 7, 6 alone"):
        compare(counted)


@pytest.mark.parametrize("spoiled", ["", "Traceback\n"], ids=["empty", "no count"])
def test_a_part_without_a_count_is_no_success(counted: Path, spoiled: str) -> None:
    (counted / "results/part-02.log").write_text(spoiled)
    with pytest.raises(SystemExit, match=r"part-02\.log holds no count"):
        compare(counted)


def test_a_missing_part_is_no_success(counted: Path) -> None:
    (counted / "results/part-00.log").unlink()
    with pytest.raises(SystemExit, match="NOT EQUAL: files"):
        compare(counted)


def test_nothing_at_all_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "parts.list").write_text("")
    with pytest.raises(SystemExit, match="nothing was counted"):
        compare(tmp_path)


def test_a_failed_task_is_no_success(tmp_path: Path) -> None:
    head = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"
    row = "1\tdemo-0000\t1.0\t{}\t0\t0\t{}\t0\t{}\n"
    log = tmp_path / "joblog.tsv"
    log.write_text(head + row.format(2.0, 0, "part-00"))
    count_tokens.slowest(tmp_path)
    log.write_text(head + row.format(2.0, 0, "part-00") + row.format(1.0, 7, "part-01"))
    with pytest.raises(SystemExit, match="exit code 0: part-01"):
        count_tokens.slowest(tmp_path)
    log.write_text(head)
    with pytest.raises(SystemExit, match="names no task"):
        count_tokens.slowest(tmp_path)


def test_the_demo_names_its_commands_without_running_them() -> None:
    listed = subprocess.run(
        [REPO / "scripts/demo.sh", "--commands"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    )
    assert listed.stdout.startswith("$ export PMR_LOCAL=1\n$ pmr local up\n")
    assert listed.stdout.endswith("$ pmr local down\n")
