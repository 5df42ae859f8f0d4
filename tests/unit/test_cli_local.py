"""`pmr local` where there is nothing to start, and where a daemon's folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from poormanray.cli import local_daemon
from poormanray.cli.local_daemon import Daemon, state_folder
from poormanray.errors import UsageProblem


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
