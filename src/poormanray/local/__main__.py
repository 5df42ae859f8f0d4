"""Run the local cloud's daemon: `python -m poormanray.local --state FOLDER`."""

from __future__ import annotations

import argparse
import fcntl
import logging
import os
import sys
from pathlib import Path

from poormanray.local.server import CONTACT, Cloud, write_contact
from poormanray.local.settings import Settings

LOCK = "running.lock"
LOG = logging.getLogger("poormanray.local")


def main() -> int:
    """Serve until told to stop; 0 after a clean stop, 1 when another daemon has the folder."""
    parser = argparse.ArgumentParser(prog="python -m poormanray.local")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], dest="words")
    options = parser.parse_args()
    folder: Path = options.state
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    os.umask(0o077)
    # The lock is what says that a daemon lives; the kernel drops it whatever ends the process.
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        LOG.error("another daemon uses %s", folder)  # noqa: TRY400 (no traceback for this)
        return 1
    cloud = Cloud(folder, Settings().with_words(options.words), port=options.port)
    write_contact(folder, cloud.contact())
    LOG.info("serving %s", cloud.contact().url)
    try:
        cloud.serve()
    finally:
        (folder / CONTACT).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())  # noqa: TID251 (this is a program of its own, not part of `pmr`)
