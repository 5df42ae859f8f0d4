"""What a runner decides by itself, run by a real bash: when it starts a task, and when again."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from poormanray import shell
from poormanray.ledger import EventLog, TaskState
from poormanray.manifest import Rules
from tests.support.machine import Machine, ends, made, said, with_program

NOTICE = b'{"action": "terminate", "time": "2026-11-25T18:02:00Z"}'


def crowd(folder: Path, *, load: str = "0.10", free_kib: int = 1 << 20) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in (
        ("loadavg", f"{load} 9.00 9.00 2/300 4711\n"),
        ("meminfo", f"MemTotal: 9 kB\nMemFree: 5 kB\nMemAvailable:  {free_kib} kB\nSwap: 0 kB\n"),
    ):
        (folder / f"{name}.new").write_text(text)
        (folder / f"{name}.new").rename(folder / name)


@pytest.mark.parametrize(
    ("rules", "crowded", "why"),
    [
        (Rules(max_load="150"), {"load": "1.51"}, "load"),
        (Rules(max_load="100%"), {"load": "9999.00"}, "load"),
        (Rules(memfree_kib=2000), {"free_kib": 1999}, "memory"),
    ],
)
def test_a_crowded_instance_starts_nothing_and_says_so_once(
    machine: Machine,
    tmp_path: Path,
    rules: Rules,
    crowded: dict[str, object],
    why: str,
) -> None:
    proc = tmp_path / "proc"
    crowd(proc, **crowded)  # type: ignore[arg-type]
    held = replace(machine, proc=str(proc))
    job = made(*["sleep 0.1"] * 4, slots="2", rules=rules)
    held.start(job)
    log = held.until(job, lambda log: len(log.held) == 2)
    assert (set(log.held.values()), log.tasks) == ({why}, {})
    claims = held.ledger(job) / "claims"
    assert not list(claims.iterdir())
    text = (held.ledger(job) / "events").read_text()
    assert text.count(f" held {why} ") == 2
    crowd(proc, load="0.00", free_kib=2000)
    log = held.ended(job)
    assert {one.state for one in log.newest.values()} == {TaskState.SUCCEEDED}
    log = held.until(job, lambda log: not log.held)
    assert log.damaged_lines == 0


def test_what_a_held_slot_waits_for_can_be_taken_away_or_cancelled(
    machine: Machine,
    tmp_path: Path,
) -> None:
    proc = tmp_path / "proc"
    crowd(proc, load="5.00")
    held = replace(machine, proc=str(proc))
    job = made("true", "true", rules=Rules(max_load="0"))
    held.start(job)
    held.until(job, lambda log: bool(log.held))
    held.cancel(job, "0")
    assert held.until(job, lambda log: ends(log) == 1).newest[0].state is TaskState.CANCELLED
    held.cancel(job)
    assert held.ended(job).newest[1].state is TaskState.CANCELLED
    held.until(job, lambda log: not log.held)


def gaps_s(log: EventLog, attempts: int) -> list[float]:
    """Return the waits between the attempts of task 0."""
    found = [log.tasks[0, number] for number in range(1, attempts + 1)]
    return [(later.started_at or 0) - (earlier.ended_at or 0) for earlier, later in pairwise(found)]


def test_what_fails_runs_again_after_its_back_off_while_others_run(
    machine: Machine,
) -> None:
    count = machine.folder / "count"
    fails_twice = f"echo x >>{count}; echo $PMR_TASK_ATTEMPT; [ $(wc -l <{count}) -ge 3 ]"
    job = made(fails_twice, *["sleep 0.2"] * 4, rules=Rules(retries=5))
    machine.start(job)
    log = machine.until(job, lambda log: ends(log) == 5 and not log.open)
    assert [log.tasks[0, number].exit_code for number in (1, 2, 3)] == [1, 1, 0]
    assert log.newest[0].state is TaskState.SUCCEEDED
    first, second = gaps_s(log, 3)
    assert 1 <= first < 3
    assert 2 <= second < 4
    # The only slot had something else to do meanwhile.
    assert all(log.tasks[n, 1].started_at < log.tasks[0, 2].started_at for n in range(1, 5))  # type: ignore[operator]
    logs = machine.ledger(job) / "logs"
    assert [(logs / f"0.{number}").read_text() for number in (1, 2, 3)] == ["1\n", "2\n", "3\n"]


def test_turns_come_to_an_end_and_a_time_limit_is_a_failure_too(
    machine: Machine,
) -> None:
    job = made("exit 3", "sleep 300", timeout_s=1.5, slots="2", rules=Rules(retries=1))
    machine.start(job)
    log = machine.until(job, lambda log: {(0, 2), (1, 2)} <= log.tasks.keys() and not log.open)
    assert [log.newest[task].state for task in (0, 1)] == [TaskState.FAILED, TaskState.TIMEOUT]
    assert max(attempt for _, attempt in log.tasks) == 2
    # Whatever part of the ledger somebody reads, no task that gets another turn seems to be over.
    data = (machine.ledger(job) / "events").read_bytes()
    first = 0
    for line in data.splitlines(keepends=True):
        first += len(line)
        part = EventLog()
        part.expect([0, 1])
        part.feed(0, data[:first])
        assert all(part.open.get(task) for task in (0, 1) if (task, 2) not in part.tasks)


def test_a_cancel_ends_what_waits_for_its_back_off(machine: Machine) -> None:
    job = made("exit 1", rules=Rules(retries=9))
    machine.start(job)
    # The third attempt waits for two seconds.
    machine.until(job, lambda log: (0, 3) in log.adopted and (0, 2) in log.tasks)
    assert machine.cancel(job).facts["cancelled"] == "1"
    log = machine.until(job, lambda log: not log.open)
    assert log.newest[0].state is TaskState.CANCELLED
    assert log.newest[0].attempt == 3
    machine.until(job, lambda _log: (machine.ledger(job) / "done").exists())


def test_a_task_is_cancelled_once_where_one_attempt_runs_and_the_next_one_waits(
    machine: Machine,
) -> None:
    job = made("sleep 300")
    machine.start(job)
    machine.until(job, lambda log: (0, 1) in log.tasks)
    with (machine.ledger(job) / "queue").open("a") as queue:
        queue.write("0 2\n")
    assert machine.cancel(job).facts["cancelled"] == "1"
    cancelled = {(0, 1): TaskState.CANCELLED, (0, 2): TaskState.CANCELLED}
    machine.until(job, lambda log: {key: one.state for key, one in log.tasks.items()} == cancelled)


def test_a_task_may_take_a_part_of_the_median_from_three_on(
    machine: Machine,
) -> None:
    # Three succeed in 6, 1.5 and 1.5 s: the median is 1.5 s, and the limit 4.5 s. Were it of the
    # longest, it would be 18 s; if those that fail counted, it would be there before 6 s; the last
    # one takes more than the median, and less than the limit.
    tasks = ["sleep 300", *["exit 1"] * 4, "sleep 6", "sleep 1.5", "sleep 1.5", "sleep 3"]
    job = made(*tasks, slots="2", rules=Rules(timeout_percent=300))
    log = machine.run(job)
    states = [log.newest[task].state for task in range(len(tasks))]
    wanted = [TaskState.TIMEOUT, *[TaskState.FAILED] * 4, *[TaskState.SUCCEEDED] * 4]
    assert states == wanted
    took_s = (log.newest[0].ended_at or 0) - (log.newest[0].started_at or 0)
    # The third success is there after 9 s.
    assert 9 <= took_s < 18


def test_with_fewer_than_three_there_is_no_such_limit(machine: Machine) -> None:
    job = made("sleep 3", "true", "true", slots="2", rules=Rules(timeout_percent=200))
    log = machine.run(job)
    assert {one.state for one in log.newest.values()} == {TaskState.SUCCEEDED}


@contextmanager
def fake_imds(answers: list[tuple[int, bytes]], asked: list[str]) -> Iterator[str]:
    """Yield the place of a metadata service that gives these answers, the last again and again."""

    class Service(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PUT(self) -> None:
            asked.append(f"PUT {self.path} {self.headers['X-aws-ec2-metadata-token-ttl-seconds']}")
            self.answer(200, b"a-token==")

        def do_GET(self) -> None:
            asked.append(f"GET {self.path} {self.headers['X-aws-ec2-metadata-token']}")
            self.answer(*(answers.pop(0) if len(answers) > 1 else answers[0]))

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1/{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_after_a_spot_notice_nothing_starts_and_the_queue_stays(
    machine: Machine,
) -> None:
    asked: list[str] = []
    with fake_imds([(404, b"Not Found"), (200, NOTICE)], asked) as place:
        noticed = replace(machine, imds=place)
        job = made("sleep 8", *["sleep 0.1"] * 3)
        noticed.start(job)
        log = noticed.until(job, lambda log: log.interrupted is not None)
        assert log.interrupted == ("terminate", "2026-11-25T18:02:00Z")
        log = noticed.until(job, lambda log: ends(log) == 1)
        token = "GET /latest/meta-data/spot/instance-action a-token=="
        assert asked == ["PUT /latest/api/token 60", token] * 2
    assert log.newest[0].state is TaskState.SUCCEEDED
    assert len(list((noticed.ledger(job) / "claims").iterdir())) == 1
    assert sorted(log.tasks) == [(0, 1)]
    assert noticed.look(job).facts["runner"] == "running"
    noticed.cancel(job)
    assert {noticed.ended(job).newest[task].state for task in (1, 2, 3)} == {TaskState.CANCELLED}


def test_where_nobody_answers_it_asks_no_more(machine: Machine) -> None:
    job = made("true")
    machine.run(job)
    script = (
        'PMR_IMDS=127.0.0.1/1; source "$0"; JOB_DIR=${0%/*}; UNHEARD=0\n'
        'for each in 1 2 3; do heed_notice; echo "<$PMR_IMDS>"; done'
    )
    words = ["bash", "-c", script, str(machine.ledger(job) / "library.sh")]
    ended = subprocess.run(words, capture_output=True, timeout=30, check=True)
    assert ended.stdout.decode().split() == ["<127.0.0.1/1>", "<127.0.0.1/1>", "<>"]
    assert ended.stderr == b""


# --- clocks -------------------------------------------------------------------------------------

HOURS_S = 3 * 3600


def with_wall_clock(machine: Machine) -> tuple[Machine, Path]:
    """Return a machine whose wall clock goes wrong by the seconds that a file holds.

    Bash cannot be given another clock: it gets none, and asks `date` instead.
    """
    wrong_by, without = machine.folder / "wrong-by", machine.folder / "without"
    wrong_by.write_text("0")
    without.write_text("unset EPOCHREALTIME EPOCHSECONDS BASH_ENV\n")
    machine = with_program(machine, "bash", f'BASH_ENV={without} exec "$REAL" "$@"\n')
    date = f'IFS=. read -r at part < <("$REAL" "$@"); echo $((at + $(<{wrong_by}))).$part\n'
    return with_program(machine, "date", date), wrong_by


@pytest.mark.parametrize("step_s", [HOURS_S, -HOURS_S])
def test_times_do_not_follow_the_wall_clock(machine: Machine, step_s: int) -> None:
    machine, wrong_by = with_wall_clock(machine)
    # The wall clock is set while the fourth task runs, and again while the fifth does.
    sets = f"echo {step_s} >{wrong_by}.new; mv {wrong_by}.new {wrong_by}; sleep 1.5"
    back = f"echo 0 >{wrong_by}.new; mv {wrong_by}.new {wrong_by}; sleep 1.5"
    job = made(*["sleep 1.2"] * 3, sets, back, rules=Rules(timeout_percent=1000))
    log = machine.run(job)
    assert {status.state for status in log.newest.values()} == {TaskState.SUCCEEDED}
    took_s = [log.newest[task].took_s or 0 for task in range(5)]
    assert all(1.1 < one < 10 for one in took_s), took_s
    # What is shown is of one line too: no task seems to begin before the one before it has ended.
    times = [(log.newest[task].started_at, log.newest[task].ended_at) for task in range(5)]
    assert times == sorted(times)
    assert abs((times[0][0] or 0) - time.time()) < 60


def test_a_time_limit_and_a_back_off_do_not_follow_the_wall_clock(machine: Machine) -> None:
    machine, wrong_by = with_wall_clock(machine)
    wrong = f"echo -{HOURS_S} >{wrong_by}.new; mv {wrong_by}.new {wrong_by}"
    job = made(
        f"{wrong}; [ $PMR_TASK_ATTEMPT = 2 ] || sleep 60", timeout_s=2, rules=Rules(retries=1)
    )
    machine.start(job)
    log = machine.until(job, lambda log: ends(log) == 1 and not log.open)
    assert [log.tasks[0, number].state for number in (1, 2)] == [
        TaskState.TIMEOUT,
        TaskState.SUCCEEDED,
    ]
    assert 1.9 < (log.tasks[0, 1].took_s or 0) < 15
    assert gaps_s(log, 2)[0] < 15


def test_a_back_off_of_an_earlier_boot_is_over() -> None:
    script = (
        "JOB_DIR=/nowhere; declare -A LATER=(); exec {QUEUE}< <(echo 3 2 99999999999999)\n"
        "until next_task; do echo waits; sleep 0.1; done; echo $task.$attempt"
    )
    assert said(script) == "3.2"


def test_a_running_task_is_as_old_as_the_boot_clock_says(machine: Machine) -> None:
    machine, wrong_by = with_wall_clock(machine)
    job = made("sleep 60")
    machine.start(job)
    machine.until(job, lambda log: bool(log.tasks))
    wrong_by.write_text(str(HOURS_S))
    call = shell.Call("summary", (f"id:{job.job_id}", "c", "3"), 0)
    ((_, told),) = machine.send(call).jobs
    words = dict(line.split("=", 1) for line in told.decode().splitlines())
    assert int(words["under"]) < 60e6
    assert 0 <= int(words["now"]) - int(words["first"]) < 60e6
