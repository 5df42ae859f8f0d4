"""`pmr map` by the front door: spread, slots, progress, results, and submitting again."""

from __future__ import annotations

import csv
import hashlib
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr
from tests.support.commands import ISO, events

NAMES = ["a b", "new\nline", "plain.sh", "ünï", "-dash", "sub/inner", "$(x)", "'quoted'"]
COUNTED = (
    'echo "$PMR_TASK_INDEX" >>"$HOME/ran-$PMR_JOB_ID"\n'
    'echo "task $PMR_TASK_INDEX of $PMR_TASK_COUNT"; sleep 0.3\n'
)


@dataclass(frozen=True, slots=True)
class Mapped:
    """A map that has ended, and where its scripts are."""

    job: str
    folder: Path
    stderr: str


@pytest.fixture(scope="module")
def mapped(pmr: Pmr, cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Mapped:
    """Return a map whose scripts have hostile names, among what is no script at all."""
    folder = tmp_path_factory.mktemp("map") / "scripts"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    for name in NAMES:
        (folder / name).write_text(COUNTED)
    (folder / "plain.sh").write_text(f"{COUNTED}exit 9\n")
    for name in (".hidden", "plain.sh~", "x.bak", "#x#", ".git/config", ".x.swp"):
        (folder / name).write_text("exit 99\n")
    told = pmr("map", "-n", cluster, folder, "--slots", "2", "--job-name", "odd", check=False)
    assert told.returncode == 1, told.stderr
    job = told.stderr.partition("job ")[2].partition(":")[0]
    return Mapped(job, folder, told.stderr)


def test_it_says_how_far_it_is(mapped: Mapped) -> None:
    assert f"job {mapped.job}: 3 instances, {len(NAMES)} tasks" in mapped.stderr
    assert f"{len(NAMES)}/{len(NAMES)} done, 1 failed, 0 running" in mapped.stderr
    assert "failed with exit code 9" in mapped.stderr


def test_results(pmr: Pmr, cluster: str, mapped: Mapped, tmp_path: Path) -> None:
    told = pmr("results", mapped.job, "-n", cluster, "-o", tmp_path / "out", "--json")
    summary = events(told.stdout)[-1]
    assert (summary["event"], summary["logs"]) == ("summary", len(NAMES))
    order = sorted(NAMES)
    for number in range(len(NAMES)):
        expected = f"task {number} of {len(NAMES)}\n".encode()
        found = (tmp_path / "out" / f"{number}.log").read_bytes()
        assert hashlib.sha256(found).digest() == hashlib.sha256(expected).digest()
    with (tmp_path / "out" / "joblog.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [int(row["Seq"]) for row in rows] == list(range(1, len(NAMES) + 1))
    assert [row["Command"] for row in rows] == [" ".join(name.split()) for name in order]
    codes = {row["Command"]: row["Exitval"] for row in rows}
    assert codes.pop("plain.sh") == "9"
    assert set(codes.values()) == {"0"}
    assert all(0.2 < float(row["JobRuntime"]) < 20 for row in rows)
    assert {row["Host"] for row in rows} == {f"{cluster}-000{number}" for number in range(3)}


def test_slots_and_status(pmr: Pmr, cluster: str, mapped: Mapped) -> None:
    document = pmr.json("status", mapped.job, "-n", cluster, "--tasks")
    assert (document["name"], document["kind"]) == ("odd", "map")
    assert ISO.fullmatch(document["created_at"])
    assert {(one["slots"], one["detached_by"]) for one in document["instances"]} == {(2, "screen")}
    assert document["counts"]["SUCCEEDED"] == len(NAMES) - 1
    assert [one["task_name"] for one in document["tasks"]] == sorted(NAMES)
    for _, group in itertools.groupby(
        sorted(document["tasks"], key=lambda one: str(one["name"])), key=lambda one: one["name"]
    ):
        spans = [(one["started_at"], one["ended_at"]) for one in group]
        assert len(spans) in {2, 3}
        for began, _ in spans:
            assert sum(1 for first, last in spans if first <= began < last) <= 2


def test_submitting_again_changes_nothing(pmr: Pmr, cluster: str, mapped: Mapped) -> None:
    again = ("map", "-n", cluster, mapped.folder, "--slots", "2", "--job-name", "odd")
    told = pmr(*again, "--job-id", mapped.job, "--json", check=False)
    assert told.returncode == 1
    summary = events(told.stdout)[-1]
    assert (summary["job"], summary["counts"]["SUCCEEDED"]) == (mapped.job, len(NAMES) - 1)
    ran = pmr("run", "-n", cluster, "--no-prefix", "-c", f'cat "$HOME/ran-{mapped.job}"')
    assert sorted(map(int, ran.stdout.split())) == list(range(len(NAMES)))


def test_other_content_with_the_same_id_is_refused(
    pmr: Pmr, cluster: str, mapped: Mapped, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("echo other\n")
    told = pmr("map", "-n", cluster, tmp_path, "--job-id", mapped.job, check=False)
    assert told.returncode == 4
    assert "other content" in told.stderr


def test_auto_slots_and_fewer_tasks_than_instances(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"{number}").write_text("nproc\n")
    told = pmr("map", "-n", cluster, tmp_path, "--slots", "auto", "--json")
    happened = events(told.stdout)
    assert happened[0]["tasks"] == 2
    assert happened[-1]["counts"]["SUCCEEDED"] == 2
    assert len({task["name"] for task in happened[-1]["tasks"]}) == 2
    job = happened[0]["job"]
    with ThreadPoolExecutor() as pool:
        log = pool.submit(pmr, "logs", job, "--task", "0", "-n", cluster)
        document = pmr.json("status", job, "-n", cluster)
    slots = {one["slots"] for one in document["instances"] if one["slots"]}
    assert slots == {int(log.result().stdout)}


def test_equal_names_in_two_folders_are_refused(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.sh").write_text("true\n")
    told = pmr("map", "-n", cluster, tmp_path / "one", tmp_path / "two", check=False)
    assert told.returncode == 2
    assert "two scripts are named 'same.sh'" in told.stderr
    assert "next:" in told.stderr
