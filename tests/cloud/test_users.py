"""An instance's users are its own: programs change them, and tasks run as who they name."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cloud.conftest import PMR, Pmr, own_cloud
from tests.support.hosting import ONE, TWO, Guests, guests, is_root, require

pytestmark = pytest.mark.skipif(not is_root(), reason="one user gives an instance no other user")


@pytest.fixture(scope="module")
def on() -> Iterator[Guests]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        require("namespaces", patch)
        with guests(Path(folder)) as running:
            yield running


def test_users_that_are_added_last_and_are_not_the_machines(on: Guests) -> None:
    machine = {name: Path("/etc", name).read_bytes() for name in ("passwd", "group", "shadow")}
    on.says("""
        set -e
        useradd -m -s /bin/bash alice
        groupadd builders
        usermod -a -G builders alice
        echo alice:secret | chpasswd
        usermod -l carol alice
        useradd bob && userdel bob
        sed -i 's|^ec2-user:.*|&|' /etc/passwd
    """)
    seen = "id -un carol; id -Gn carol; stat -c %U /home/alice; ls /home; grep -c bob /etc/passwd"
    expected = "carol\nalice builders\ncarol\nalice\nec2-user\n0"
    assert on.run(seen).stdout.decode().strip() == expected
    on.host.power_off(ONE)
    on.host.boot(ONE, facts={})
    assert on.run(seen).stdout.decode().strip() == expected
    assert on.says("setpriv --reuid carol --regid alice --init-groups id -un") == "carol"
    assert on.says("grep ^carol: /etc/shadow | cut -d: -f2 | cut -c1") == "$"
    assert on.run("id carol", on=TWO).exit_code == 1
    assert machine == {name: Path("/etc", name).read_bytes() for name in machine}


def test_only_root_inside_changes_them(on: Guests) -> None:
    switch = "setpriv --reuid ec2-user --regid ec2-user --init-groups"
    for write in (
        "echo x >>/etc/passwd",
        "mv /etc/passwd /etc/x",
        "touch /etc/new",
        "cat /etc/shadow",
    ):
        assert on.run(f"{switch} sh -c '{write}'").exit_code != 0, write


def test_files_of_users_are_no_mounts(on: Guests) -> None:
    assert on.run("grep -E ' /etc/' /proc/self/mountinfo").stdout == b""
    assert on.says(
        "for f in passwd group shadow gshadow subuid subgid; do stat -c %U /etc/$f; done"
    ) == ("\n".join(["root"] * 6))


def test_the_rest_of_etc_is_the_machines(on: Guests) -> None:
    known = [
        path.name
        for path in Path("/etc").iterdir()
        if path.name in {"ssl", "os-release", "services"}
    ]
    for name in known:
        assert on.says(f"test -e /etc/{name} && echo there") == "there"
    # What it replaces is its own from then on.
    on.says("rm -f /etc/services; echo mine >/etc/services")
    on.host.power_off(ONE)
    on.host.boot(ONE, facts={})
    assert on.says("cat /etc/services") == "mine"
    assert on.run("echo x >>/etc/os-release").exit_code != 0
    assert (
        not set(on.says("ls -A /etc").split())
        - {path.name for path in Path("/etc").iterdir()}
        - {
            *("passwd", "group", "shadow", "gshadow", "subuid", "subgid", "hosts", "hostname"),
            *("passwd-", "group-", "shadow-", "gshadow-", "subuid-", "subgid-", ".pwd.lock"),
        }
    )


def test_only_root_inside_stops_the_instance(on: Guests) -> None:
    told: list[tuple[str, str]] = []
    on.host.on_shutdown(lambda instance_id, kind: told.append((instance_id, kind)))
    switch = "setpriv --reuid ec2-user --regid ec2-user --init-groups"
    for words in ("shutdown -h now", "poweroff", "reboot", "halt", "systemctl poweroff"):
        ended = on.run(f"{switch} {words}")
        assert (ended.exit_code, b"only root" in ended.stderr) == (1, True), words
    assert on.run(f"{switch} sh -c 'echo poweroff 0 >/run/initctl'").exit_code != 0
    assert on.run(f"{switch} sh -c 'echo poweroff 0 1<>/run/initctl >&1'").exit_code != 0
    assert on.run(f"{switch} rm -f /run/initctl").exit_code != 0
    assert told == []


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with pytest.MonkeyPatch.context() as patch:
        require("namespaces", patch)
        with own_cloud(tmp_path_factory.mktemp("home")) as command:
            command("create", "-n", "own", "-N", "1")
            yield command


def test_a_task_never_runs_as_root_because_its_user_has_vanished(cloud: Pmr) -> None:
    def run(*words: str) -> tuple[int, str]:
        ended = cloud("run", "-n", "own", "--no-prefix", *words, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    assert "ec2-user" in run("--", "id", "-un")[1]
    assert run("-u", "root", "--", "userdel", "ec2-user")[0] == 0
    code, said = run("--", "id", "-un")
    assert (code, "no user ec2-user" in said, "\nroot" in said) == (4, True, False)
    assert run("-u", "root", "--", "id", "-un")[0] == 0
    assert run("-u", "root", "--", "useradd", "-m", "ec2-user")[0] == 0
    assert "ec2-user" in run("--", "id", "-un")[1]


def test_a_user_that_vanishes_while_a_job_runs_starts_no_more_tasks(
    cloud: Pmr, tmp_path: Path
) -> None:
    assert cloud("run", "-n", "own", "-u", "root", "--", "useradd", "-m", "leaver").returncode == 0
    gate = "until [[ -e /tmp/go ]]; do sleep 0.1; done; id -un"
    lines = tmp_path / "lines"
    lines.write_text("1\n2\n3\n")
    words = ("-u", "leaver", "--slots", "1", "--json", "-d", "--array", "1-3")
    job = json.loads(cloud("map", "-n", "own", *words, "-c", gate).stdout.splitlines()[-1])["job"]
    vanish = (
        "until pgrep -u leaver >/dev/null; do sleep 0.1; done; "
        "sed -i /^leaver:/d /etc/passwd; >/tmp/go"
    )
    assert cloud("run", "-n", "own", "-u", "root", "-c", vanish).returncode == 0
    ended = cloud("wait", job, "-n", "own", check=False)
    assert ended.returncode != 0
    status = cloud.json("status", job, "-n", "own", "--tasks", check=False)
    said = json.dumps(status)
    assert "no user leaver" in said
    assert '"root' not in cloud("logs", job, "-n", "own", check=False).stdout


# A machine that is itself one of AWS's images, in a mount namespace of the test's own.
WITH_USER = 'mount --bind "$0" /etc/passwd && exec "$@"'


def test_plain_processes_of_root_run_as_root_on_a_machine_that_has_ec2_user(tmp_path: Path) -> None:
    users = tmp_path / "passwd"
    machine = Path("/etc/passwd").read_text()
    users.write_text(f"{machine}ec2-user:x:20002:20002::/home/ec2-user:/bin/bash\n")
    state = tempfile.mkdtemp(prefix="pmr-")
    command = Pmr(tmp_path, Path(state), {"PMR_LOCAL_ISOLATION": "processes"})

    def pmr(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", WITH_USER, users, PMR, *words],
            env=command.environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    try:
        assert "own rights" in pmr("local", "up").stderr
        pmr("create", "-n", "plain", "-N", "1")
        for user in ((), ("-u", "ec2-user")):
            on = ("-n", "plain", "--no-prefix", *user)
            ended = pmr("run", *on, "-c", 'id -u; echo "$HOME"; cd && pwd -P')
            assert ended.returncode == 0, ended.stderr
            uid, home, real = ended.stdout.split()
            assert (uid, home) == ("0", real)
            assert home.startswith(f"{state}/instances/i-")
        assert pmr("run", "-n", "plain", "-u", "nobody-here", "--", "true").returncode == 4
    finally:
        pmr("local", "down")
        shutil.rmtree(state)
