"""Two submissions under one job id: one is refused, and never shows what the other came to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from poormanray.ledger import new_job_id
from tests.cloud.conftest import Pmr
from tests.support.commands import events

# A dozen commands one after another, on a machine that has much else to do.
pytestmark = pytest.mark.timeout(600)
# The command as it is where the other submission comes after its look at the cluster.
TOO_EARLY = """
import poormanray.cli.working as working
working.resumed = lambda _fleet, job, _timeout_s: job
from poormanray.cli import main
main()
"""


@pytest.fixture(scope="module")
def two(new_cluster: Callable[[str, int], str]) -> str:
    """Return the name of a cluster of two instances."""
    return new_cluster("two", 2)


def begun(pmr: Pmr, *words: str, early: bool = False) -> subprocess.Popen[bytes]:
    """Start `pmr WORDS --json`, with `early` as if its look at the cluster had found nothing."""
    if not early:
        return pmr.start(*words, "--json")
    return subprocess.Popen(
        [sys.executable, "-c", TOO_EARLY, *words, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=pmr.environment(),
        cwd=pmr.home,
    )


def told(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return how a command ended, and all that it wrote."""
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, (stdout + stderr).decode()


def test_other_content_under_the_same_id_is_refused(pmr: Pmr, two: str) -> None:
    job, on = new_job_id(), ("-n", two)
    run = ("run", *on, "--job-id", job)
    assert "one" in pmr(*run, "-c", "echo one").stdout
    for words in (("-c", "echo two"), ("-u", "nobody", "-c", "echo one"), ("-d", "-c", "echo two")):
        refused = pmr(*run, *words, check=False)
        assert refused.returncode == 4, refused.stderr
        assert f"job {job} was submitted before with other content or options" in refused.stderr
        assert "leave out --job-id" in refused.stderr
        assert "one" not in refused.stdout
    again = pmr(*run, "--json", "-c", "echo one")
    assert events(again.stdout)[-1]["counts"]["SUCCEEDED"] == 2
    assert pmr.json("status", job, *on)["counts"]["SUCCEEDED"] == 2


def test_the_same_content_on_other_instances_is_refused(pmr: Pmr, two: str) -> None:
    job, on = new_job_id(), ("-n", two)
    run, what = ("run", *on, "--job-id", job), ("-c", "echo one")
    first, second = ("-i", f"{two}-0000"), ("-i", f"{two}-0001")
    pmr(*run, *first, *what)
    for other in (second, (*first, *second), ()):
        refused = pmr(*run, *other, *what, check=False)
        assert refused.returncode == 4, refused.stderr
        assert f"with other instances, to {two}-0000" in refused.stderr
    assert events(pmr(*run, *first, "--json", *what).stdout)[-1]["exit_code"] == 0


@pytest.mark.parametrize("detach", [(), ("-d",)], ids=["attached", "detached"])
def test_who_looked_too_early_is_refused_by_the_instances(
    pmr: Pmr, two: str, detach: tuple[str, ...]
) -> None:
    job = new_job_id()
    run = ("run", "-n", two, "--job-id", job)
    pmr(*run, "-d", "-c", "sleep 4; echo one")
    late = begun(pmr, *run, *detach, "-c", "echo two", early=True)
    code, words = told(late)
    assert code == 4, words
    assert f"job {job} stands for two submissions" in words
    assert "with other content or options" in words
    assert "nothing of this submission was started" in words
    assert '"event": "summary"' not in words
    followed = events(pmr("logs", "-f", job, "-n", two, "--json").stdout)
    assert (followed[-1]["exit_code"], followed[-1]["counts"]["SUCCEEDED"]) == (0, 2)


def test_overlapping_sets_end_what_the_second_one_started(pmr: Pmr, two: str) -> None:
    job = new_job_id()
    run, what = ("run", "-n", two, "--job-id", job), ("-c", "sleep 300; echo one")
    pmr(*run, "-d", "-i", f"{two}-0000", *what)
    code, words = told(begun(pmr, *run, *what, early=True))
    assert code == 4, words
    assert "as it was submitted to other instances" in words
    assert "what this submission had started is cancelled" in words
    # Of the two jobs under this id neither is the one that is meant; both can be ended.
    for command in ("status", "logs", "retry"):
        unclear = pmr(command, job, "-n", two, check=False)
        assert unclear.returncode == 4
        assert f"pmr cancel {job} -n {two}" in unclear.stderr
    ended = pmr.json("cancel", job, "-n", two)
    assert ended["tasks_cancelled"] == 1


def test_disjoint_sets_at_the_same_moment_are_both_named(pmr: Pmr, two: str) -> None:
    job = new_job_id()
    run = ("run", "-n", two, "--job-id", job)
    first = begun(pmr, *run, "-i", f"{two}-0000", "-c", "sleep 6", early=True)
    second = begun(pmr, *run, "-i", f"{two}-0001", "-c", "sleep 6", early=True)
    for code, words in map(told, (first, second)):
        assert code == 4, words
        assert f"job {job} stands for two submissions" in words
        assert "it was also submitted to other instances" in words


def test_a_submission_that_was_cut_off_goes_on_without_who_has_gone(
    pmr: Pmr, new_cluster: Callable[[str, int], str]
) -> None:
    job, name = new_job_id(), new_cluster("shrunk", 2)
    run, what = ("map", "-n", name, "--job-id", job, "--array", "0-5"), ("-c", "echo {}")
    pmr(*run, "--static", "-d", *what)
    assert pmr("logs", "-f", job, "-n", name).returncode == 0
    pmr("terminate", "-n", name, "-i", f"{name}-0001", "--yes")
    pmr("create", "-n", name, "-N", "1", timeout_s=120)
    again = pmr(*run, "--static", "--json", *what, check=False)
    found = events(again.stdout)[-1]
    # Three of them were on the instance that has gone; none runs twice.
    assert found["counts"]["SUCCEEDED"] + found["counts"]["LOST"] == 6
    assert {task["attempt"] for task in found["tasks"]} == {1}


def test_a_cancel_of_two_jobs_under_one_id_names_who_cannot_be_asked(
    pmr: Pmr, new_cluster: Callable[[str, int], str]
) -> None:
    name, job = new_cluster("twofold", 3), new_job_id()
    for number in (0, 1):
        words = ("--job-id", job, "-i", f"{name}-000{number}", "-c", f"sleep 30{number}")
        process = begun(pmr, "run", "-n", name, "-d", *words, early=True)
        told(process)
    stranger = pmr("cancel", job, "-n", name, "-i", "nobody", check=False)
    assert (stranger.returncode, "has no instance nobody" in stranger.stderr) == (3, True)
    # Whether the third one has a job under this id, nobody can say.
    pmr("pause", "-n", name, "-i", f"{name}-0002")
    missed = pmr("cancel", job, "-n", name, check=False)
    assert missed.returncode == 4
    assert f"job {job}: " in missed.stdout
    assert f"[{name}-0002] not cancelled, its tasks may run on" in missed.stderr
    assert f"pmr cancel {job} -n {name} -i {name}-0002" in missed.stderr
