"""`pmr local` where there is nothing to start, and where a daemon's folder is."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from poormanray.cli import local_daemon
from poormanray.cli.local_daemon import Daemon, state_folder
from poormanray.errors import NotReached, UsageProblem

SOUND = {
    "pid": 1,
    "url": "http://127.0.0.1:1",
    "access_key": "A",
    "secret_key": "S",
    "region": "us-east-1",
    "isolation": "namespaces",
    "isolation_reason": "",
    "network": "machine",
    "network_reason": "",
    "time_scale": 1.0,
}


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Path]:
    """Return a folder whose daemon lives, as far as its lock says."""
    write(tmp_path / "running.lock", "1")
    with (tmp_path / "running.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield tmp_path


def test_without_the_extra_the_hint_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_daemon, "_EXTRA", ("json", "not_installed_anywhere"))
    with pytest.raises(UsageProblem, match="not_installed_anywhere") as caught:
        Daemon(tmp_path / "cloud").start()
    assert caught.value.hint == "pip install 'poormanray[local]'"
    assert not (tmp_path / "cloud").exists()


def test_what_a_dead_daemon_wrote_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "cloud.json").write_text('{"pid": 1, "url": "http://127.0.0.1:1"}')
    (tmp_path / "running.lock").write_text("1")
    assert Daemon(tmp_path).contact() is None


def test_nothing_to_end_where_nothing_was(tmp_path: Path) -> None:
    assert not Daemon(tmp_path / "none").end()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"PMR_LOCAL_DIR": "/srv/cloud", "XDG_STATE_HOME": "/x"}, "/srv/cloud"),
        ({"XDG_STATE_HOME": "/x"}, "/x/poormanray/local"),
        ({"HOME": "/home/me"}, "/home/me/.local/state/poormanray/local"),
    ],
)
def test_the_state_folder(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("PMR_LOCAL_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert state_folder() == Path(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("null", "cloud.json"),
        ("[]", "cloud.json"),
        ('"url"', "cloud.json"),
        ("{}", "it has no 'url'"),
        ("\udcff\x00".encode("utf-8", "replace").decode(), "not JSON"),
        *(
            (json.dumps({k: v for k, v in SOUND.items() if k != gone}), f"it has no {gone!r}")
            for gone in SOUND
        ),
        *((json.dumps({**SOUND, name: None}), "cloud.json") for name in SOUND),
        *((json.dumps({**SOUND, name: [1]}), "cloud.json") for name in SOUND),
        (json.dumps({**SOUND, "time_scale": 0}), "time scale"),
        (json.dumps({**SOUND, "time_scale": float("nan")}), "time scale"),
        (json.dumps({**SOUND, "pid": float("inf")}), "cloud.json"),
        (json.dumps({**SOUND, "url": "http://192.0.2.1:80"}), "URL"),
        (json.dumps({**SOUND, "url": "http://127.0.0.1:80@192.0.2.1"}), "URL"),
    ],
)
def test_a_damaged_contact_is_named_with_the_next_step(held: Path, text: str, said: str) -> None:
    write(held / "cloud.json", text)
    with pytest.raises(NotReached, match=r"cloud\.json is damaged") as caught:
        Daemon(held).contact()
    assert said in str(caught.value)
    assert caught.value.hint == "pmr local down, then pmr local up"


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_contact_that_others_can_read_is_refused(held: Path, mode: int) -> None:
    write(held / "cloud.json", json.dumps(SOUND), mode)
    with pytest.raises(UsageProblem, match="others can read or change it"):
        Daemon(held).contact()


def test_a_contact_that_is_no_file_is_refused(held: Path) -> None:
    write(held / "elsewhere", json.dumps(SOUND))
    (held / "cloud.json").symlink_to("elsewhere")
    with pytest.raises(UsageProblem, match="cannot be trusted"):
        Daemon(held).contact()
    (held / "cloud.json").unlink()
    os.mkfifo(held / "cloud.json", 0o600)
    with pytest.raises(UsageProblem, match="it is not a file"):
        Daemon(held).contact()


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o777, 0o750])
def test_a_folder_that_others_can_look_into_is_refused_and_stays_as_it_is(
    held: Path, mode: int
) -> None:
    write(held / "cloud.json", json.dumps(SOUND))
    held.chmod(mode)
    for ask in (Daemon(held).contact, Daemon(held).start, Daemon(held).end):
        with pytest.raises(UsageProblem, match=f"mode {mode:04o}") as caught:
            ask()
        assert str(caught.value.hint).startswith("chmod 700 ")
    assert held.stat().st_mode & 0o777 == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's folder")
def test_another_users_folder_is_refused_and_stays_as_it_is(held: Path) -> None:
    write(held / "cloud.json", json.dumps(SOUND), 0o644)
    held.chmod(0o755)
    os.chown(held, 20_001, 20_001)
    for ask in (Daemon(held).contact, Daemon(held).start, Daemon(held).end):
        with pytest.raises(UsageProblem, match="belongs to another user") as caught:
            ask()
        assert "PMR_LOCAL_DIR" in str(caught.value.hint)
    assert (held.stat().st_uid, held.stat().st_mode & 0o777) == (20_001, 0o755)
    os.chown(held, 0, 0)
    held.chmod(0o700)
    os.chown(held / "cloud.json", 20_001, 20_001)
    with pytest.raises(UsageProblem, match=r"cloud\.json cannot be trusted"):
        Daemon(held).contact()
