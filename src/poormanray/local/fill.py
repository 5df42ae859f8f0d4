"""Limit the disk under an instance's /var/lib/pmr: run inside by the host, and by nobody else.

It is started as `python -I -S -c SOURCE BYTES` and uses the standard library alone. The first time,
the folder is copied into a file system in memory, mounted over it; then that one's size is set so
that BYTES are free (-1: as many as anyone wants).
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

AT = b"/var/lib/pmr"
STEP = b"/run/pmr-disk"
ROOMY = 1 << 30
MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_MOVE = 2, 4, 32, 8192

libc = ctypes.CDLL(None, use_errno=True)


def _mount(source: bytes, target: bytes, kind: bytes | None, flags: int, size: int) -> None:
    options = b"mode=755,size=%d" % size if size else None
    if libc.mount(source, target, kind, ctypes.c_ulong(flags), options) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _limited() -> bool:
    mounts = Path("/proc/self/mountinfo").read_bytes().splitlines()
    return any(line.split()[4] == AT and b" - tmpfs " in line for line in mounts)


def main() -> None:
    """Do what the words of the command line say."""
    free = int(sys.argv[1])
    if not _limited():
        Path(os.fsdecode(STEP)).mkdir()
        _mount(b"tmpfs", STEP, b"tmpfs", MS_NOSUID | MS_NODEV, ROOMY)
        subprocess.run([b"/bin/cp", b"-a", AT + b"/.", STEP], check=True)
        _mount(STEP, AT, None, MS_MOVE, 0)
        Path(os.fsdecode(STEP)).rmdir()
    now = os.statvfs(AT)
    used = (now.f_blocks - now.f_bfree) * now.f_frsize
    # A size of 0 would be no limit.
    size = max(used + (free if free >= 0 else ROOMY), now.f_frsize)
    _mount(b"none", AT, None, MS_REMOUNT | MS_NOSUID | MS_NODEV, size)


main()
