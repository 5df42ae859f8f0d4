"""The daemon of the local cloud, seen from outside: its folder, its contact, start and end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import importlib.util
import json
import math
import os
import pwd
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poormanray.aws.session import Endpoint
from poormanray.errors import NotReached, UsageProblem
from poormanray.waiting import Clock, poll

# What `python -m poormanray.local` needs besides the program's own dependencies.
_EXTRA = ("moto", "flask", "flask_cors", "waitress", "psutil")
_START_S = 60.0
_END_S = 20.0
_LOOPBACK = "http://127.0.0.1:"


@dataclass(frozen=True, slots=True)
class Contact:
    """What `cloud.json` says."""

    pid: int
    endpoint: Endpoint
    region: str
    isolation: str
    isolation_reason: str
    network: str
    network_reason: str

    @property
    def address(self) -> str:
        """Return host and port."""
        return self.endpoint.url.partition("//")[2]


class Daemon:
    """The one daemon of a state folder, running or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def log(self) -> Path:
        """Return the daemon's log file."""
        return self.folder / "cloud.log"

    def contact(self) -> Contact | None:
        """Return how to reach the daemon; None when it does not run or is not ready.

        Raises:
            UsageProblem: the folder or what is in it is not the user's alone.
            NotReached: `cloud.json` is damaged.
        """
        self._need_private()
        if not self._held():
            return None
        try:
            text = self._own_text("cloud.json")
        except FileNotFoundError:
            return None
        try:
            found = _contact(json.loads(text))
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise NotReached(
                f"{self.folder / 'cloud.json'} is damaged: {_damage(error)}",
                "pmr local down, then pmr local up",
            ) from error
        # A daemon that is slow to answer is running all the same: nobody may start another one.
        return found if str(found.pid) == self._own_text("running.lock") else None

    def _need_private(self) -> None:
        """Raise UsageProblem where others than the user may change the folder, or look into it."""
        try:
            facts = self.folder.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(error) from error
        if facts.st_uid != os.geteuid():
            raise UsageProblem(
                f"{self.folder} belongs to another user ({_user_name(facts.st_uid)})",
                "set PMR_LOCAL_DIR to a folder of your own",
            )
        if not stat.S_ISDIR(facts.st_mode):
            raise self._unusable(NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)))
        if facts.st_mode & 0o077 and not self._empty():
            mode = stat.S_IMODE(facts.st_mode)
            raise UsageProblem(
                f"others can look into {self.folder} (mode {mode:04o}), which must be yours alone",
                f"chmod 700 {shlex.quote(str(self.folder))}, or set PMR_LOCAL_DIR to a new folder",
            )

    def _empty(self) -> bool:
        try:
            return not any(self.folder.iterdir())
        except OSError as error:
            raise self._unusable(error) from error

    def _own_text(self, name: str) -> str:
        """Return a file of the folder.

        Raises:
            FileNotFoundError: there is none.
            UsageProblem: it is not a file of the user alone.
        """
        path = self.folder / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._not_own(path, error.strerror or "") from error
        with os.fdopen(handle, "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise self._not_own(path, "it is not a file")
            if facts.st_uid != os.geteuid():
                raise self._not_own(path, f"it belongs to {_user_name(facts.st_uid)}")
            if facts.st_mode & 0o077:
                mode = stat.S_IMODE(facts.st_mode)
                raise self._not_own(path, f"others can read or change it (mode {mode:04o})")
            return file.read().decode(errors="replace")

    def _not_own(self, path: Path, why: str) -> UsageProblem:
        return UsageProblem(
            f"{path} cannot be trusted: {why}",
            "pmr local down, then pmr local up; or set PMR_LOCAL_DIR to a folder of your own",
        )

    def start(self, *, port: int = 0, words: Sequence[str] = ()) -> tuple[Contact, bool]:
        """Return the contact of the running daemon, and whether it had to be started.

        Raises:
            UsageProblem: what the local cloud needs is not installed.
            NotReached: it does not start.
        """
        running = self.contact()
        if running is not None:
            return running, False
        _need_extra()
        with self._alone():
            running = self.contact()
            if running is not None:
                return running, False
            self._end()
            process = self._launch(port, words)
            try:
                return poll(
                    self.contact,
                    clock=Clock(),
                    timeout_s=_START_S,
                    first_s=0.05,
                    until=lambda found: found is not None or process.poll() is not None,
                    longest_s=0.2,
                ) or self._failed(), True
            except TimeoutError:
                process.kill()
                return self._failed(), True

    def end(self) -> bool:
        """End the daemon and what is left of one; say whether one was running."""
        if not self.folder.is_dir():
            return False
        with self._alone():
            return self._end()

    def _end(self) -> bool:
        running = self._held()
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not (self._held() and self._signal(number)):
                break
            with contextlib.suppress(TimeoutError):
                poll(
                    lambda: not self._held(),
                    clock=Clock(),
                    timeout_s=_END_S,
                    first_s=0.02,
                    longest_s=0.1,
                )
        if self._held():
            raise NotReached(
                f"the local cloud of {self.folder} does not end", f"look at {self.log}"
            )
        self._sweep()
        return running

    def _signal(self, number: signal.Signals) -> bool:
        """Send a signal to the daemon, to no process that has got its id since; say if it went."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._own_text("running.lock"))
            if not hasattr(os, "pidfd_open"):  # no Linux
                os.kill(pid, number)
                return True
            held = os.pidfd_open(pid)
            try:
                if str(self.folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    signal.pidfd_send_signal(held, number)
                    return True
            finally:
                os.close(held)
        return False

    def _sweep(self) -> None:
        """Remove what a daemon that died left behind; its instances died with it."""
        (self.folder / "cloud.json").unlink(missing_ok=True)
        if (self.folder / "instances").exists() and _extra_missing() is None:
            words = [sys.executable, "-m", "poormanray.local", "--state", str(self.folder)]
            with self.log.open("ab") as log:
                subprocess.run(
                    [*words, "--sweep"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=_START_S,
                    check=False,
                    cwd="/",
                    env=_environment(),
                )

    def _launch(self, port: int, words: Sequence[str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "poormanray.local", "--state", str(self.folder)]
        command += ["--port", str(port)]
        for word in words:
            command += ["--set", word]
        with self.log.open("wb") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                start_new_session=True,
            )

    def _failed(self) -> Contact:
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        lines = [line for line in text.splitlines() if line.strip()]
        why = f": {lines[-1].strip()}" if lines else ""
        raise NotReached(f"the local cloud does not start{why}", f"read {self.log}")

    def _held(self) -> bool:
        """Say whether a daemon lives: it holds a lock that only the kernel can take from it."""
        try:
            handle = os.open(self.folder / "running.lock", os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def _unusable(self, error: OSError) -> UsageProblem:
        return UsageProblem(
            f"{self.folder} cannot hold a local cloud: {error.strerror}",
            "set PMR_LOCAL_DIR to a folder of your own",
        )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold off others who would start or end the daemon at the same time."""
        try:
            self._need_private()
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Empty, or the user's alone already.
            self.folder.chmod(0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
            handle = os.open(self.folder / "start.lock", flags, 0o600)
        except OSError as error:
            raise self._unusable(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def state_folder() -> Path:
    """Return the folder of the local cloud: PMR_LOCAL_DIR, else below the XDG state folder."""
    named = os.environ.get("PMR_LOCAL_DIR")
    if named:
        return Path(named).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    if state.startswith("~") and not os.environ.get("HOME", "/").startswith("/"):
        raise _homeless()
    try:
        return Path(state).expanduser().absolute() / "poormanray" / "local"
    except RuntimeError as error:  # no HOME, and a user without a name
        raise _homeless() from error


def _homeless() -> UsageProblem:
    return UsageProblem(
        "HOME names no folder, so the local cloud has no place",
        "set HOME, or PMR_LOCAL_DIR to a folder of your own",
    )


def ask(method: str, route: str, document: Mapping[str, object] | None = None) -> dict[str, Any]:
    """Ask the running local cloud by a route of its own.

    Raises:
        NotReached: it does not run.
    """
    from poormanray.aws import local_admin

    return local_admin.ask(running().endpoint, method, route, document)


def running() -> Contact:
    """Return the contact of the running local cloud.

    Raises:
        NotReached: it does not run.
    """
    contact = Daemon(state_folder()).contact()
    if contact is None:
        raise NotReached("the local cloud is not running", "pmr local up")
    return contact


def _contact(said: dict[str, Any]) -> Contact:
    """Return what a document says.

    Raises:
        ValueError, TypeError, KeyError, OverflowError: it is not one that a daemon writes.
    """
    rest = ("region", "isolation", "isolation_reason", "network", "network_reason")
    words = ("url", "access_key", "secret_key", *rest)
    texts = {name: said[name] for name in words}
    if not all(isinstance(text, str) for text in texts.values()):
        raise TypeError("a word in it is no text")
    if not (texts["url"].startswith(_LOOPBACK) and texts["url"][len(_LOOPBACK) :].isdecimal()):
        raise ValueError("its URL is not one of this machine")
    scale = float(said["time_scale"])
    if not 0 < scale < math.inf:
        raise ValueError("its time scale is not one")
    endpoint = Endpoint(texts["url"], texts["access_key"], texts["secret_key"], scale)
    return Contact(int(said["pid"]), endpoint, *(texts[name] for name in rest))


def _damage(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON"
    return str(error)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _environment() -> dict[str, str]:
    """Return the daemon's environment: nothing of the user's AWS settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}


def _extra_missing() -> str | None:
    missing = (name for name in _EXTRA if importlib.util.find_spec(name) is None)
    return next(missing, None)


def _need_extra() -> None:
    missing = _extra_missing()
    if missing is not None:
        raise UsageProblem(
            f"the local cloud is not installed ({missing} is missing)",
            "pip install 'poormanray[local]'",
        )
