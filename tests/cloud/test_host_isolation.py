"""An instance made of namespaces sees and changes nothing of the machine and its user."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from poormanray.local.namespaces import layers
from tests.support.hosting import ONE, TWO, Guests, guests, is_root, require

SECRET = "planted-secret"
# A folder that is not hidden by being one of those that an instance has itself.
OPEN_FOLDERS = [path for path in ("/opt", "/srv", "/usr/local") if os.access(path, os.W_OK)]


def plant(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SECRET)


@pytest.fixture(scope="module")
def on() -> Iterator[Guests]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as name:
        require("namespaces", patch)
        patch.setenv("PMR_LOCAL_KEY", SECRET)
        state = Path(name) / "state"
        plant(state, "cloud.json", f"instances/{TWO}/var/lib/pmr/secret")
        with guests(state / "instances", hidden=(state,)) as running:
            yield running


def test_nothing_of_the_machine_can_be_written(on: Guests) -> None:
    said = on.says("""
        cd /; for folder in / .etc etc/ssl usr usr/bin usr/local/sbin opt srv boot sys proc/sys; do
            if touch $folder/x 2>/dev/null || mkdir $folder/y 2>/dev/null; then echo $folder; fi
        done
    """)
    assert said == ""


def test_mounts_cannot_be_undone(on: Guests) -> None:
    attack = """
        exec 2>/dev/null
        for mount in /usr/bin/mount /bin/mount; do
            $mount -o remount,rw,bind /usr
            $mount -o remount,rw /usr
            unshare -m $mount -o remount,rw,bind /usr
            unshare -Urm $mount -o remount,rw,bind /usr
            unshare -Urm /usr/bin/umount -l /etc/passwd
            nsenter -t 1 -m $mount -o remount,rw,bind /usr
        done
        mknod /tmp/disk b 254 0 && echo device
        if touch /usr/x || unshare -Urm touch /usr/x; then echo written; fi
        grep '^ec2-user\\|^root' /etc/passwd >/dev/null || echo unmounted
    """
    assert on.run(attack).stdout == b""


def test_mounts_cannot_be_undone_with_all_rights_inside(on: Guests) -> None:
    # As one who got hold of a process that has just entered and not yet given up its rights.
    attack = """
        for place in /usr /etc /; do
            /usr/bin/mount -o remount,rw,bind $place || /usr/bin/mount -o remount,rw $place
        done
        for place in /etc/passwd /proc /root /usr /proc/sys; do /usr/bin/umount -l $place; done
        if touch /usr/x; then echo written; fi
        sed -n 's/^CapEff://p' /proc/self/status
    """
    on.says("true")
    first, keeper = first_process_and_keeper(on)
    outer, inner = f"/proc/{keeper}/ns", f"/proc/{first}/ns"
    enter = ["nsenter", *([] if is_root() else ["--preserve-credentials"])]
    said = subprocess.run(
        [
            *(*enter, f"--user={outer}/user", f"--pid={inner}/pid"),
            *(*enter, f"--user={inner}/user", f"--mount={inner}/mnt", "sh", "-c", attack),
        ],
        capture_output=True,
        check=True,
        text=True,
    )
    assert int(said.stdout, 16) >> 21 & 1, "it had the right to mount"
    assert said.stderr.count("umount: ") == 5
    assert on.says("head -n 1 /etc/passwd").startswith("root:x:0:0")


def first_process_and_keeper(on: Guests) -> tuple[int, int]:
    """Return the numbers that the only running instance's two own processes have outside."""
    on.host.power_off(TWO)
    (keeper,) = [one for one in psutil.Process().children() if one.children()]
    (first,) = keeper.children()
    return first.pid, keeper.pid


def test_capabilities_that_undo_mounts_are_gone(on: Guests) -> None:
    bounds = int(on.says("sed -n 's/^CapBnd:\\t//p' /proc/self/status"), 16)
    dangerous = {"sys_module": 16, "sys_rawio": 17, "sys_admin": 21, "mknod": 27}
    assert {name for name, number in dangerous.items() if bounds >> number & 1} == set()
    first = int(on.says("sed -n 's/^CapBnd:\\t//p' /proc/1/status"), 16)
    assert first == bounds


def test_state_home_and_other_instances_are_not_there(on: Guests) -> None:
    state = on.folder.parent
    for path in (
        state,
        state / "cloud.json",
        on.folder,
        Path.home() / ".ssh",
        Path.home() / ".aws",
    ):
        assert on.run(f"test -e '{path}'").exit_code == 1, path
    assert on.says("ls /tmp; ls -A /var/lib/pmr") == ""


def test_secret_is_nowhere(on: Guests) -> None:
    searched = "/tmp /var /home /root /run /dev/shm /srv"
    assert (
        on.run(f"grep -rlsI --exclude=_script.sh --exclude-dir=.pyenv {SECRET} {searched}").stdout
        == b""
    )
    assert on.run(f"cat /proc/[0-9]*/environ | grep -c {SECRET}").stdout == b"0\n"


def test_no_other_process_is_there(on: Guests) -> None:
    said = on.says("ps -e -o comm= | sort | uniq | tr '\\n' ' '")
    assert set(said.split()) <= {"cat", "sh", "ps", "sort", "uniq", "tr"}
    assert on.run(f"kill -0 {os.getpid()}").exit_code == 1


def test_shadow_file_of_the_machine_is_not_there(on: Guests) -> None:
    assert on.says("cat /etc/shadow").splitlines()[0] == "root:*:19000::::::"


def test_devices_are_few(on: Guests) -> None:
    assert set(on.says("ls /dev").split()) == {
        *("fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"),
        *("tty", "urandom", "zero"),
    }
    assert on.says("echo x | tee /dev/null /dev/shm/x && cat /dev/shm/x </dev/tty 2>&1 || true")


def test_no_systemd_and_no_metadata_service(on: Guests) -> None:
    assert on.run("test -e /run/systemd/system").exit_code == 1
    assert on.says("echo $AWS_EC2_METADATA_DISABLED") == "true"


def test_python_runs_for_everyone(on: Guests) -> None:
    assert on.says("python3 -c 'print(6 * 7)'") == "42"
    assert on.says(f"{sys.base_prefix}/bin/python3 -c 'print(6 * 7)'") == "42"
    if is_root():
        switch = "setpriv --reuid 1000 --regid 1000 --clear-groups"
        assert on.says(f"{switch} {sys.base_prefix}/bin/python3 -c 'print(6 * 7)'") == "42"


def test_link_planted_inside_leads_the_host_nowhere(on: Guests, tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    orchestration = f"/var/lib/amazon/ssm/{ONE}/document/orchestration"
    on.says(f"mv {orchestration} /var/tmp/aside; ln -s {tmp_path}/target {orchestration}")
    with pytest.raises(OSError, match="directory"):
        on.start("true")
    assert list((tmp_path / "target").iterdir()) == []
    on.host.power_off(ONE)
    on.host.destroy(ONE)
    assert on.says("echo again") == "again"


def test_host_name_is_its_own(on: Guests) -> None:
    names = {on.says("hostname", on=instance) for instance in (ONE, TWO)}
    assert len(names) == 2
    assert all(name.startswith("ip-10-") for name in names)


@pytest.mark.skipif(not OPEN_FOLDERS, reason="nowhere to plant a home outside /home")
def test_home_and_aws_files_elsewhere_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    require("namespaces", monkeypatch)
    with tempfile.TemporaryDirectory(dir=OPEN_FOLDERS[0]) as name:
        folder = Path(name)
        folder.chmod(0o755)
        plant(folder, "home/.aws/credentials", "aws/config", "state/cloud.json", "seen")
        monkeypatch.setenv("HOME", str(folder / "home"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(folder / "aws/config"))
        with guests(folder / "state/instances", hidden=(folder / "state",)) as on:
            assert on.says(f"cd {folder} && find . -type f -size +0; cat aws/config") == "./seen"
            assert on.run(f"touch {folder}/x || touch {folder}/home/x").exit_code == 1


@pytest.mark.parametrize(
    ("hidden", "shown", "expected"),
    [
        (["/root"], "/usr", []),
        (["/root"], "/root/py", ["/root/py"]),
        (["/data/me"], "/usr", ["/data/me"]),
        (["/data/me"], "/data/me/py", ["/data/me", "/data/me/py"]),
        (["/data/me/py/state"], "/data/me/py", ["/data/me/py/state"]),
        (["/data/me"], "/data/me", ["/data/me"]),
    ],
)
def test_layers(hidden: list[str], shown: str, expected: list[str]) -> None:
    assert layers(hidden, shown) == expected
