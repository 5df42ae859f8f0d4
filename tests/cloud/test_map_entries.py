"""`pmr map` over arrays, lines, JSON and words: each entry is one task, and stays one word."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path

import pytest

from tests.cloud.conftest import Pmr

HOSTILE = ["a b", "it's", '"q"', "$HOME `id` $(id)", "{}", "-n", "ü 雪 \udcff", "*", "x\\y", ";"]
SAY = 'printf "%s\\0%s" "$PMR_ENTRY" "$PMR_TASK_ID:$PMR_TASK_INDEX/$PMR_TASK_COUNT" | base64 -w 0'


def said(pmr: Pmr, cluster: str, *words: str | Path, stdin: bytes = b"") -> dict[int, list[str]]:
    """Map, and return what each task printed as base64 of texts with NUL between them."""
    job = pmr.raw("map", "-n", cluster, "--json", *words, stdin=stdin).stdout.splitlines()
    job_id = json.loads(job[-1])["job"]
    found: dict[int, list[str]] = {}
    for line in pmr.raw("logs", job_id, "-n", cluster, "--json").stdout.splitlines():
        event = json.loads(line)
        if event["event"] == "output":
            data = base64.b64decode(event["text"])
            found[event["task"]] = data.decode("utf-8", "surrogateescape").split("\0")
    return found


def test_an_array(pmr: Pmr, cluster: str) -> None:
    assert said(pmr, cluster, "--array", "2-8:3,40", "-c", SAY) == {
        2: ["2", "2:0/4"],
        5: ["5", "5:1/4"],
        8: ["8", "8:2/4"],
        40: ["40", "40:3/4"],
    }


def test_lines_words_and_json_arrive_as_they_are(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    lines = "\n".join(HOSTILE).encode("utf-8", "surrogateescape")
    script = tmp_path / "script"
    script.write_text(f"#!/bin/bash\n{SAY}\n")
    expected = {n: [entry, f"{n}:{n}/{len(HOSTILE)}"] for n, entry in enumerate(HOSTILE)}
    assert said(pmr, cluster, "--each-line", "-", "-s", script, stdin=lines) == expected
    told = said(pmr, cluster, "-c", "printf '%s' {} | base64 -w 0", "--", ":::", *HOSTILE)
    assert told == {number: [entry] for number, entry in enumerate(HOSTILE)}
    elements = [{"a": [1, "ü"]}, "two\nlines\n", 3]
    (tmp_path / "list.json").write_text(json.dumps(elements))
    told = said(pmr, cluster, "--from-json", tmp_path / "list.json", "-c", SAY + "; : {}")
    assert [told[0][0], told[1][0], told[2][0]] == ['{"a":[1,"ü"]}', "two\nlines\n", "3"]


def test_an_entry_in_quotes_is_data(pmr: Pmr, cluster: str) -> None:
    entries = [
        *HOSTILE,
        "$(touch /tmp/executed)",
        "`touch /tmp/executed`",
        '"; touch /tmp/executed;"',
    ]
    command = (
        "cat <<END | base64 -w 0\n"
        "{}$(printf '\\001%s' \"{}\" '{}' a{}b; ls /tmp/executed 2>&-)\nEND"
    )
    told = said(pmr, cluster, "-c", command, "--", ":::", *entries)
    assert told == {
        number: ["\x01".join([entry, entry, entry, f"a{entry}b\n"])]
        for number, entry in enumerate(entries)
    }


def test_a_crowded_instance_says_so_and_starts_nothing(pmr: Pmr, cluster: str) -> None:
    words = ("map", "-n", cluster, "-d", "--array", "0-2", "--memfree", "900T", "-c", "true")
    job = pmr(*words).stdout.strip()
    for _ in range(20):
        shown = pmr("status", job, "-n", cluster).stdout
        if shown.count("slots held back: 1 by memory") == 3:
            break
    assert "3 tasks: 3 pending" in shown
    assert {one["held"] for one in pmr.json("status", job, "-n", cluster)["instances"]} == {1}
    assert (
        pmr("cancel", job, "-n", cluster).stdout == f"job {job}: 3 tasks cancelled on 3 instances\n"
    )


def test_a_part_of_the_median_is_a_map_s(pmr: Pmr, cluster: str) -> None:
    slow = "[ $PMR_TASK_ID != 0 ] || sleep 300; sleep 0.2"
    words = ("--slots", "4", "--array", "0-11", "--timeout", "1000%", "-c", slow)
    told = pmr("map", "-n", cluster, "--static", *words, check=False)
    assert told.returncode == 124
    assert "11 SUCCEEDED, 1 TIMEOUT" in told.stderr
    refused = pmr("run", "-n", cluster, "--timeout", "200%", "-c", "true", check=False)
    assert (refused.returncode, "next:" in refused.stderr) == (2, True)


def test_an_array_s_tasks_know_themselves_by_other_names(pmr: Pmr, cluster: str) -> None:
    slurm = (
        "$SLURM_ARRAY_TASK_ID $SLURM_ARRAY_TASK_COUNT $SLURM_ARRAY_TASK_MIN $SLURM_ARRAY_TASK_MAX"
    )
    batch = "$AWS_BATCH_JOB_ARRAY_INDEX $AWS_BATCH_JOB_ARRAY_SIZE $AWS_BATCH_JOB_ATTEMPT"
    say = 'printf "%s\\0%s" "$PMR_ENTRY" "OTHERS" | base64 -w 0'
    for compat, words, expected in (
        ("slurm", slurm, ["7", "7 3 7 19"]),
        ("batch", batch, ["13", "1 3 1"]),
        ("coiled", "$COILED_BATCH_TASK_ID", ["19", "19"]),
    ):
        command = say.replace("OTHERS", words)
        told = said(pmr, cluster, "--array", "7-19:6", "--compat", compat, "-c", command)
        assert told[int(expected[0])] == expected


SBATCH = """#!/bin/bash
#SBATCH --array=7-19:6 --job-name=sim --cpus-per-task=3 --time=20
#SBATCH --partition=gpu
cd "$SLURM_SUBMIT_DIR" || exit
numbers="$SLURM_JOB_ID $SLURM_JOBID $SLURM_ARRAY_JOB_ID"
[[ $numbers =~ ^[0-9]+\\ [0-9]+\\ [0-9]+$ ]] || exit
echo "$SLURM_JOB_ID" "$SLURM_ARRAY_TASK_ID" "$SLURM_ARRAY_TASK_STEP" "$SLURM_CPUS_PER_TASK" \\
    "$SLURM_JOB_NAME" "$SLURM_NTASKS" "$(cat helper)"
"""


def test_a_script_for_sbatch_runs_as_it_is(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    (tmp_path / "job.sh").write_text(SBATCH)
    (tmp_path / "helper").write_text("there")
    words = ("-s", tmp_path / "job.sh", "--files", tmp_path / "helper", "--compat", "slurm")
    told = pmr("map", "-n", cluster, "--json", *words)
    assert "no effect here: #SBATCH --partition=gpu" in told.stderr
    job = json.loads(told.stdout.splitlines()[-1])["job"]
    lines = pmr("logs", job, "-n", cluster, "--no-prefix").stdout.splitlines()
    rows = sorted((line.split() for line in lines), key=lambda row: int(row[0]))
    assert [row[1:] for row in rows] == [
        [task, "6", "3", "sim", "1", "there"] for task in ("7", "13", "19")
    ]
    assert len({row[0] for row in rows}) == 3
    (listed,) = [one for one in pmr.json("jobs", "-n", cluster) if one["job"] == job]
    assert listed["name"] == "sim"
    plain = pmr("run", "-n", cluster, "-s", tmp_path / "job.sh", check=False)
    assert "no effect here: #SBATCH --array=7-19:6, " in plain.stderr


def test_too_many_failures_stop_a_map(pmr: Pmr, cluster: str) -> None:
    words = ("map", "-n", cluster, "--json", "--static", "--array", "0-11", "-c")
    fail = "[ $PMR_TASK_ID != 0 ] || exit 7; sleep 2"
    soon = pmr(*words, fail, "--halt", "soon,fail=1", check=False)
    assert soon.returncode == 1
    done = json.loads(soon.stdout.splitlines()[-1])
    counts = done["counts"]
    # What ran then went on to its end; what waited never started.
    assert counts["FAILED"] == 1
    assert counts["SUCCEEDED"] >= 2
    assert counts["SUCCEEDED"] + counts["CANCELLED"] == 11
    assert all(t["started_at"] is None for t in done["tasks"] if t["state"] == "CANCELLED")
    (told,) = [e for e in map(json.loads, soon.stdout.splitlines()) if e["event"] == "halt"]
    assert told == {"event": "halt", "failed": 1, "now": False, "missed": []}
    now = pmr(*words, fail.replace("sleep 2", "sleep 60"), "--halt", "now,fail=5%", check=False)
    done = json.loads(now.stdout.splitlines()[-1])
    assert now.returncode == 1
    assert {state: n for state, n in done["counts"].items() if n} == {"FAILED": 1, "CANCELLED": 11}


def test_a_script_says_how_often_it_may_run(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    script = tmp_path / "task.sh"
    script.write_text('#!/bin/sh\n#PMR retries 1\n[ "$PMR_TASK_ATTEMPT" = 2 ]\n')
    told = pmr("map", "-n", cluster, "--json", "--array", "0-1", "-s", script)
    tasks = json.loads(told.stdout.splitlines()[-1])["tasks"]
    assert [(task["attempt"], task["state"]) for task in tasks] == [(2, "SUCCEEDED")] * 2
    never = pmr(
        "map", "-n", cluster, "--json", "--array", "0", "-s", script, "--retries", "0", check=False
    )
    assert never.returncode == 1


def test_at_most_so_many_at_once(pmr: Pmr, cluster: str) -> None:
    told = pmr(
        "map", "-n", cluster, "--json", "--slots", "4", "--array", "0-11%2", "--", "sleep", "0.3"
    )
    tasks = json.loads(told.stdout.splitlines()[-1])["tasks"]
    assert len({task["instance"] for task in tasks}) == 2
    for name in {task["instance"] for task in tasks}:
        own = sorted((t["started_at"], t["ended_at"]) for t in tasks if t["instance"] == name)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(own))


def test_a_dry_run_sends_nothing(pmr: Pmr, cluster: str) -> None:
    before = pmr.json("jobs", "-n", cluster)
    told = pmr("map", "-n", cluster, "--dry-run", "--array", "0-99", "-c", "true")
    assert "100 tasks on 3 instances; nothing was sent" in told.stdout
    assert "inline" in told.stdout
    words = ("-c", 'say "it is {}" {.}.png >x{#}', "--", ":::", "a b.c", "$(id)")
    told = pmr("map", "-n", cluster, "--dry-run", *words)
    assert "task 0: say \"it is a b.c\" 'a b'.png >x1\n" in told.stdout
    assert "task 1: say \"it is \\$(id)\" '$(id)'.png >x2\n" in told.stdout
    words = ("--json", "--", "printf", "%s\\n", ":::", "a\nb")
    shown = json.loads(pmr("map", "-n", cluster, "--dry-run", *words).stdout)
    assert shown["commands"] == [{"task": 0, "command": "printf '%s\\n' 'a\nb'"}]
    plan = pmr.json("map", "-n", cluster, "--dry-run", "--array", "0-99", "-c", "true")
    assert sorted(task["task"] for task in plan["tasks"]) == list(range(100))
    assert pmr.json("jobs", "-n", cluster) == before


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--array", "3-1", "-c", "true"], "ends before it begins"),
        (["--array", "1", "--each-line", "x", "-c", "true"], "in one way what to map over"),
        (["--each-line", "no-such-file", "-c", "true"], "cannot read no-such-file"),
        (["--each-line", "/dev/null", "-c", "true"], "nothing to map over"),
        (["--from-json", "/etc/passwd", "-c", "true"], "neither a JSON list nor JSON Lines"),
        (["--array", "1"], "what to run for each"),
        (["--array", "1", "-c", "true", "--", "true"], "what to run for each"),
        (["-c", "true"], "not for what"),
        (["-c", "true", "--", ":::", "a", ":::", "b"], "stands there twice"),
        (["-c", "true", "--", ":::", "a", ":::+", "b"], ":::+ is not supported"),
        (["--", "echo", "{}", "::::", "file"], ":::: is not supported"),
        (["-c", "echo {1}", "--", ":::", "a"], "{1} is no placeholder here"),
        (["--", "echo", "{= s/a/b/ =}", ":::", "a"], "{= s/a/b/ =} is no placeholder here"),
        (["--", "sh", "-c", "echo {}", ":::", "a"], "program text of sh"),
        (["--array", "1", "-s", "a", "-s", "b"], "-s twice"),
        ([], "which directory of scripts"),
        (["--array", "1", "-c", "true", "--halt", "at once"], "no halt such as"),
        (["--array", "1", "-c", "true", "--halt", "now,fail=1", "-d"], "needs a client"),
        (["--array", "1", "-c", "true", "--changed"], "belongs to --resume"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(words: list[str], why: str, pmr: Pmr) -> None:
    told = pmr("map", "-n", "no-such-cluster", *words, check=False)
    assert told.returncode == 2
    assert why in told.stderr
    assert "  next: " in told.stderr
