"""Attacks from inside of an instance, and what of the machine they are after."""

from __future__ import annotations

import contextlib
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Neither hidden nor covered while an instance is built: what leads there gets there.
OUTSIDE = "/var/tmp"
USER = 20_001
LONGEST_S = 90
# In a script, $AT is the instance's root, $OUT the folder outside, and `swap` puts a link there.
PRELUDE = """
exec 2>/dev/null
AWS_SSM_INSTANCE_ID=${AWS_SSM_INSTANCE_ID:-$PMR_INSTANCE_ID}
swap() { mv "$1" "$1.aside"; ln -sfT "$2" "$1"; }
"""


ORCHESTRATION = "$AT/var/lib/amazon/ssm/$AWS_SSM_INSTANCE_ID/document/orchestration"
SCRIPT = f"{ORCHESTRATION}/next/awsrunShellScript/0.awsrunShellScript"
ATTACKS = {
    "the folder of jobs is a link": 'swap $AT/var/lib/pmr "$OUT"',
    "the folder above it is a link": 'swap $AT/var/lib "$OUT"',
    "the folder of jobs is a link upwards": "swap $AT/var/lib/pmr ../../../../../../../..$OUT",
    "the folder of jobs was renamed": "mv $AT/var/lib $AT/var/gone; mkdir -p $AT/var/lib; "
    'ln -sfT "$OUT" $AT/var/lib/pmr',
    "the folder of jobs is a file": "rm -rf $AT/var/lib/pmr; mv $AT/var/lib $AT/var/other; "
    "mkdir $AT/var/lib; echo x >$AT/var/lib/pmr",
    "links below the folder of jobs": 'cd $AT/var/lib/pmr && ln -sfT "$OUT" jobs; '
    'ln -sfT "$OUT/file" file; mkdir d; ln -sfT "$OUT" d/e; chmod 0 d',
    "pipes, sockets and odd modes": "cd $AT/var/lib/pmr && mkfifo pipe; python3 -c "
    "'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'; "
    "mkdir shut; echo x >shut/x; chmod 0 shut; echo x >s; chmod 4755 s; ln s hard",
    "the folder of scripts is a link": f'swap {ORCHESTRATION} "$OUT"',
    "a folder of the next script is a link": f"mkdir -p {SCRIPT}; rmdir {SCRIPT}; "
    f'ln -sfT "$OUT" {SCRIPT}',
    "the next script is a link": f'mkdir -p {SCRIPT}; ln -sfT "$OUT/file" {SCRIPT}/_script.sh',
    "the next script is a pipe": f"mkdir -p {SCRIPT}; mkfifo {SCRIPT}/_script.sh",
    "the next script is a folder": f"mkdir -p {SCRIPT}/_script.sh/x",
    "the spot notice is a link": 'cd $AT/run; ln -sfT "$OUT/file" spot-notice; '
    'ln -sfT "$OUT/file" .spot-notice',
    "the spot notice is a pipe": "cd $AT/run; mkfifo spot-notice .spot-notice",
    "the control pipe is a link": 'rm $AT/run/initctl; ln -sfT "$OUT/file" $AT/run/initctl',
    "the control pipe is a file": "rm $AT/run/initctl; echo x >$AT/run/initctl",
    "the place of the limited disk is a link": 'ln -sfT "$OUT" $AT/run/pmr-disk',
    "links in what is emptied": "for at in $AT/tmp $AT/run $AT/run/screen $AT/var/tmp; do "
    'cd $at && ln -sfT "$OUT" out; mkdir -p a/b; ln -sfT "$OUT" a/b/out; ln -sfT "$OUT/file" f; '
    "chmod 0 a/b a; done",
    "a deep tree in what is emptied": "cd $AT/tmp && python3 -c "
    '\'import os\nfor n in range(1200): os.mkdir("d"); os.chdir("d")\'',
    "the ways home are links": "rm -rf $AT/root/.pyenv $AT/root/.local $AT/home/*; "
    "for at in $AT/root $AT/home; do for name in .pyenv .local .cache versions bin lib; do "
    'mv $at/$name $at/$name.aside; ln -sfT "$OUT" $at/$name; done; done',
    "users are links": "cd $AT/etc && for name in passwd group shadow hosts hostname; do "
    'rm -f $name; ln -sfT "$OUT/file" $name; done',
    "users are pipes": "cd $AT/etc && rm -f passwd group && mkfifo passwd group",
}


# With namespaces alone: elsewhere it is the user's own right to do all this.
INSIDE_ATTACKS = {
    "mounts": """
        mount=$(ls /usr/bin/mount /bin/mount | head -n 1)
        unshare -Urm $mount --bind /var/lib/amazon /var/lib/pmr
        unshare -Urm sh -c "$mount -t tmpfs x /var/lib/pmr; ln -s $OUT /var/lib/pmr/jobs"
        $mount -o remount,rw /; unshare -Urm $mount -o remount,rw,bind $(dirname $OUT)
        touch "$OUT/x"; echo x >"$OUT/file"
    """,
    "roots and folders of other processes": """
        for n in $(seq 9); do for at in /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/[0-9]*/fd/*; do
            touch "$at$OUT/x" "$at/../../../..$OUT/x"; echo x >"$at$OUT/file"
        done; done
    """,
    "devices": """
        cd /var/tmp
        for kind in b:254:0 b:8:0 b:253:0 c:1:1 c:1:2 c:10:237; do
            mknod d ${kind%%:*} $(echo ${kind#*:} | tr : ' ') && (dd if=d count=1 && touch $OUT/x)
            rm -f d
        done
        unshare -Urm mknod d c 1 1
    """,
    "hard links to what is outside": """
        for to in /var/lib/pmr /tmp /run /var/tmp /etc; do
            ln "$OUT/file" $to/hard; ln /proc/1/root$OUT/file $to/hard; ln -P /proc/1/exe $to/exe
        done
    """,
    "writes to what the machine shows": """
        cd "$OUT" && echo x >file; touch x; chmod 777 file; chown 5 file; rm -f file; mv lib gone
        echo x >/proc/sys/kernel/core_pattern; echo x >/proc/sysrq-trigger
    """,
}


@dataclass(frozen=True, slots=True)
class Outside:
    """A folder outside of all instances that everybody may write, and how it was."""

    folder: Path

    def plant(self) -> None:
        """Fill it."""
        self.folder.chmod(0o777)
        for name in ("file", "lib/pmr/kept", "pmr/kept", "versions/kept", "jobs/kept"):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text("as it was\n")
            (self.folder / name).parent.chmod(0o777)
            (self.folder / name).chmod(0o666)

    def state(self) -> dict[str, tuple[object, ...]]:
        """Return all that can be seen of every file in it."""
        found: dict[str, tuple[object, ...]] = {}
        for path in [self.folder, *self.folder.rglob("*")]:
            at = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(at.st_mode) else b""
            seen = (at.st_mode, at.st_uid, at.st_gid, at.st_nlink, at.st_mtime_ns, at.st_ctime_ns)
            found[str(path.relative_to(self.folder))] = (*seen, content)
        return found


@contextlib.contextmanager
def outsides() -> Iterator[Outside]:
    """Make a folder outside for the block."""
    with tempfile.TemporaryDirectory(dir=OUTSIDE, prefix="pmr-outside-") as name:
        found = Outside(Path(name))
        found.plant()
        yield found
