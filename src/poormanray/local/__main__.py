"""Run the local cloud's daemon: `python -m poormanray.local --state FOLDER`."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from poormanray.local.folder import Directory
from poormanray.local.server import CONTACT, Cloud, sweep, write_contact
from poormanray.local.settings import Settings

LOCK = "running.lock"
LOCK_TRIES = 40
LOG = logging.getLogger("poormanray.local")


def main() -> int:
    """Serve until told to stop; 0 after a clean stop, 1 when another daemon has the folder."""
    parser = argparse.ArgumentParser(prog="python -m poormanray.local")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="words")
    parser.add_argument("--sweep", action="store_true", help="remove what a dead daemon left")
    options = parser.parse_args()
    folder: Path = options.state
    _log()
    os.umask(0o022)  # Source: agent-facts 2, what scripts see; the folder itself is 0700
    try:
        state = _open(folder)
    except OSError as problem:
        LOG.error("%s", problem)  # noqa: TRY400 (the user's folder)
        return 2
    if not _lock(state):
        LOG.error("another daemon uses %s", folder)
        return 1
    if options.sweep:
        sweep(folder)
        return 0
    try:
        settings = Settings().with_words(options.words)
    except ValueError as problem:
        LOG.error("%s", problem)  # noqa: TRY400 (the user's word, not our fault)
        return 2
    return _serve(folder, state, settings, options.port)


def _open(folder: Path) -> Directory:
    """Open the cloud's folder; what is in it decides over the user's processes and files.

    Raises:
        OSError: others than the user may change it, or look into it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = Directory.at(folder)
    facts = os.fstat(state.fileno())
    if facts.st_uid != os.geteuid() or facts.st_mode & 0o077:
        state.close()
        raise OSError(f"{folder} is not a folder of this user alone (mode 0700)")
    return state


def _serve(folder: Path, state: Directory, settings: Settings, port: int) -> int:
    try:
        cloud = Cloud(folder, settings, port=port)
    except OSError as problem:
        LOG.error("cannot listen on port %s: %s", port, problem)  # noqa: TRY400 (the user's port)
        return 2
    if os.getsid(0) == os.getpid():
        _be_a_service()
    write_contact(state, cloud.contact())
    LOG.info("serving %s", cloud.contact().url)
    try:
        cloud.serve()
    finally:
        state.remove(CONTACT)
    return 0


def _be_a_service() -> None:
    """Let nothing of where it was started reach the instances, and go before what they run.

    AWS's service is a machine of its own. Source: sched(7), "The autogroup feature"; where it is
    not ours to choose, the priority stays as it is.
    """
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text("-10")


def _log() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)


def _lock(state: Directory) -> bool:
    """Take the lock that says that a daemon lives; the kernel drops it whatever ends us."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    handle = os.open(LOCK, flags, 0o600, dir_fd=state.fileno())
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Someone may only be looking whether it is held; that takes no time.
            threading.Event().wait(0.05)
            continue
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())  # noqa: TID251 (this is a program of its own, not part of `pmr`)
