"""Streams, folders and signals of the caller's machine: each failure has its line and its code."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cloud.conftest import PMR, ClientFactory, Pmr
from tests.support.commands import TRUST, events

FULL, CLOSED = ">/dev/full", ">&-"
# Commands that print on stdout, each in one way at least; `JOB` is a job that has ended.
COMMANDS = (
    "--help",
    "version --json",
    "list",
    "list --json",
    "jobs",
    "status JOB",
    "status JOB --json",
    "status JOB --watch",
    "logs JOB",
    "logs -f JOB --json",
    "results JOB -o out",
    "report JOB -o page.html --json",
    "map --dry-run --array 1-2 -c id",
    "local status",
    "local env --json",
)


def shell(
    pmr: Pmr, words: str, streams: str = "", cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `pmr WORDS` by a shell that redirects its streams first."""
    return subprocess.run(
        ["/bin/sh", "-c", f"exec {shlex.quote(str(PMR))} {words} {streams}"],
        capture_output=True,
        text=True,
        env=pmr.environment(),
        cwd=cwd or pmr.home,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def job(pmr: Pmr, cluster: str) -> str:
    """Return the id of a job that has ended."""
    ended = pmr("run", "-n", cluster, "--json", "-c", "echo something")
    return str(events(ended.stdout)[-1]["job"])


@pytest.mark.parametrize("stream", [FULL, CLOSED])
def test_stdout_that_takes_nothing_is_said_once(
    pmr: Pmr, cluster: str, job: str, stream: str
) -> None:
    inside = pmr.with_env(PMR_CLUSTER=cluster)
    with ThreadPoolExecutor(3) as pool:
        ended = pool.map(lambda one: shell(inside, one.replace("JOB", job), stream), COMMANDS)
        for words, one in zip(COMMANDS, ended, strict=True):
            assert one.returncode == 2, (words, one)
            assert one.stderr.count("error: cannot write to stdout: ") == 1, (words, one)
            assert "  next: " in one.stderr
            assert "Traceback" not in one.stderr
            assert "Exception ignored" not in one.stderr
    watching = shell(inside, f"logs -f {job}", stream)
    assert f"  pmr logs -f {job} -n {cluster}" in watching.stderr


@pytest.mark.parametrize("streams", ["2>/dev/full", "2>&-", "<&-", "<&- 2>&-"])
def test_what_a_command_does_needs_neither_stderr_nor_stdin(
    pmr: Pmr, cluster: str, job: str, streams: str
) -> None:
    for words in (f"logs {job} -n {cluster}", f"status {job} -n {cluster} --json", "--help"):
        ended = shell(pmr, words, streams)
        assert ended.returncode == 0, ended
        assert ended.stdout
        assert ended.stderr == "" or "2>" not in streams
    refused = shell(pmr, "status -n nowhere", streams)
    assert (refused.returncode, refused.stdout) == (3, "")


def test_a_job_that_cannot_be_announced_is_not_started(pmr: Pmr, cluster: str) -> None:
    before = pmr.json("jobs", "-n", cluster)
    ended = shell(pmr, f"run -n {cluster} --json -c id", FULL)
    assert ended.returncode == 2
    assert "this command has started nothing of job " in ended.stderr
    assert pmr.json("jobs", "-n", cluster) == before


def test_a_job_whose_output_nobody_takes_goes_on_and_is_named(pmr: Pmr, cluster: str) -> None:
    for stream, code in ((FULL, 2), ("| head -0", 0)):
        script = "sleep 1; for i in 1 2 3; do echo $i; sleep 0.3; done"
        ended = shell(pmr, f"run -n {cluster} -c {shlex.quote(script)}", stream)
        assert ended.returncode == code
        assert "goes on without a watcher" in ended.stderr
        again = ended.stderr.rpartition("  pmr ")[2].splitlines()[0]
        assert shell(pmr, again).stdout.count("] 3\n") == 3


@pytest.mark.parametrize("encoding", ["ascii:strict", "utf-16", "undefined", "idna", "latin-1"])
def test_any_encoding_of_the_streams_will_do(pmr: Pmr, encoding: str) -> None:
    odd = pmr.with_env(PYTHONIOENCODING=encoding, TERM="")
    refused = odd("status", "-n", "nowhere", check=False)
    assert refused.returncode == 3
    assert "nowhere" in refused.stderr.replace("\0", "")


@pytest.mark.parametrize("home", ["", "/nowhere/at/all", "/dev/null", "here", None])
def test_a_home_that_is_none(pmr: Pmr, home: str | None) -> None:
    env = {**pmr.environment(), "HOME": home or ""}
    if home is None:
        del env["HOME"]
    for words in (["list"], ["local", "status"]):
        ended = subprocess.run(
            [PMR, *words], env=env, capture_output=True, text=True, cwd=pmr.home, check=False
        )
        assert ended.returncode == 0, ended
    del env["PMR_LOCAL_DIR"]
    # Nothing is started where the place of the cloud is not known.
    ended = subprocess.run(
        [PMR, "local", "status"], env=env, capture_output=True, text=True, cwd="/", check=False
    )
    assert ended.returncode in (2, 4), ended
    assert ended.stderr.count("error: ") == ended.stderr.count("  next: ") == 1
    if home in ("", "here"):
        assert "HOME" in ended.stderr


@pytest.mark.parametrize("folder", ["/nowhere", "/dev/null", "/proc"])
def test_a_folder_for_temporary_files_that_is_none(
    pmr: Pmr, cluster: str, job: str, folder: str, tmp_path: Path
) -> None:
    odd = pmr.with_env(TMPDIR=folder, PMR_CLUSTER=cluster)
    odd("results", job, "-o", tmp_path / "results")
    odd("run", "-c", "id")


def test_a_working_directory_that_is_gone(pmr: Pmr, cluster: str, job: str, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    inside = pmr.with_env(PMR_CLUSTER=cluster)
    wanted = {
        "version": 0,
        "list": 0,
        f"status {job}": 0,
        f"logs {job}": 0,
        "run -c id": 0,
        f"results {job} -o out": 2,
        f"report {job}": 2,
        "map .": 2,
        "run --files . -c id": 2,
        "run -s here.sh": 2,
    }
    for words, code in wanted.items():
        gone.mkdir()
        ended = subprocess.run(
            ["/bin/sh", "-c", f"rmdir {gone}; exec {PMR} {words}"],
            capture_output=True,
            text=True,
            env=inside.environment(),
            cwd=gone,
            check=False,
        )
        assert ended.returncode == code, (words, ended)
        assert ended.stderr.count("  next: ") == bool(code), (words, ended)
        assert "Traceback" not in ended.stderr


def test_results_and_reports_take_their_place_whole(
    pmr: Pmr, cluster: str, job: str, tmp_path: Path
) -> None:
    results, page = tmp_path / "results", tmp_path / "page.html"
    pmr("results", job, "-n", cluster, "-o", results)
    pmr("report", job, "-n", cluster, "-o", page)
    before = {path.name: path.stat().st_ino for path in results.glob("[!.]*")}
    assert {"0.log", "joblog.tsv", "results.jsonl"} < before.keys()
    assert page.read_text().endswith("</html>\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "results"]
    pmr("results", job, "-n", cluster, "-o", results)
    after = {path.name: path.stat().st_ino for path in results.glob("[!.]*")}
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())


@pytest.mark.parametrize("words", ["results JOB -o", "report JOB -o"])
def test_a_place_that_cannot_be_written_is_refused_before_anything(
    pmr: Pmr, job: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "file.html").write_text("")
    (tmp_path / "folder.html").mkdir()
    places = {"/proc/x.html", str(tmp_path / "file.html/x.html")}
    places.add(str(tmp_path / ("file.html" if "results" in words else "folder.html")))
    for place in places:
        # The cluster is not there either: that is not even asked.
        ended = shell(pmr, f"{words.replace('JOB', job)} {place} -n nowhere")
        assert ended.returncode == 2, ended
        assert f"error: cannot write {place}" in ended.stderr
        assert "local cloud" not in ended.stderr


@pytest.fixture(scope="module")
def mute(pmr: Pmr, client: ClientFactory) -> Iterator[str]:
    """Return the name of a cluster whose one instance never gets ready: its role may do nothing."""
    iam = client("iam")
    iam.create_role(RoleName="mute", AssumeRolePolicyDocument=TRUST)
    iam.create_instance_profile(InstanceProfileName="mute")
    iam.add_role_to_instance_profile(InstanceProfileName="mute", RoleName="mute")
    pmr("create", "-n", "mute", "-d", "--instance-profile", "mute")
    yield "mute"
    pmr("terminate", "-n", "mute", "--yes")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("watcher", ["run", "logs", "status", "wait"])
def test_a_signal_says_what_goes_on(
    pmr: Pmr, cluster: str, mute: str, watcher: str, sent: signal.Signals
) -> None:
    inside = pmr.with_env(PMR_CLUSTER=cluster)
    script = ("-c", "echo on; sleep 60")
    words, sign = {
        "run": (("run", *script), b"on"),
        "logs": (("logs", "-f"), b"on"),
        "status": (("status", "--watch=1s"), b"running"),
        "wait": (("wait", "-n", mute), b"0 of 1 ready"),
    }[watcher]
    if watcher in ("logs", "status"):
        inside("run", "-d", *script)
    with inside.start(*words) as watching:
        stream = watching.stderr if watcher == "wait" else watching.stdout
        assert stream is not None
        read = b""
        while sign not in read:
            data = os.read(stream.fileno(), 1 << 16)
            assert data, watching.communicate()
            read += data
        watching.send_signal(sent)
        _, err = watching.communicate(timeout=30)
    said = (read if watcher == "wait" else b"").decode() + err.decode()
    assert watching.returncode == 128 + sent
    word = "interrupted" if sent == signal.SIGINT else f"ended by {sent.name}"
    assert word in said
    assert "pmr " in said.rpartition("to go on ")[2], said
    assert "Traceback" not in said
    if watcher != "wait":
        inside("cancel")


def test_an_upload_that_is_cut_off_is_named(pmr: Pmr, cluster: str, tmp_path: Path) -> None:
    (tmp_path / "large.sh").write_bytes(b"exit 0\n#" + os.urandom(150_000).hex().encode())
    words = ("run", "-n", cluster, "-s", str(tmp_path / "large.sh"))
    with pmr.start(*words) as sending:
        assert sending.stderr is not None
        read = b""
        while b"content: 1 of" not in read:
            data = os.read(sending.stderr.fileno(), 1 << 16)
            assert data, read
            read += data
        sending.send_signal(signal.SIGTERM)
        _, err = sending.communicate(timeout=30)
    assert sending.returncode == 143
    assert "ended by SIGTERM: this command has started nothing of job " in err.decode()


def test_watching_in_json_on_a_terminal_keeps_its_documents(
    pmr: Pmr, cluster: str, job: str
) -> None:
    reading, writing = pty.openpty()
    command = [str(PMR), "status", job, "-n", cluster, "--watch", "--json"]
    env = {**pmr.environment(), "TERM": "xterm"}
    with subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, env=env) as watching:
        watching.communicate(timeout=30)
    os.close(writing)
    shown = os.read(reading, 1 << 16).decode()
    os.close(reading)
    assert "\x1b" not in shown
    assert json.loads(shown.splitlines()[0])["job"] == job
