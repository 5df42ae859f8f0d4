"""Instances as Linux namespaces: users, mounts and processes of their own."""

from __future__ import annotations

import json
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from poormanray.local.executions import Errand
from poormanray.local.folder import BOOT_ID, JOBS, MACHINE_ETC, Directory, InstanceFolder, Owner
from poormanray.local.inside import in_namespace_of
from poormanray.local.nest import KEPT_CAPABILITIES, OWN_TOP
from poormanray.local.network import PATH, Uplink, Way
from poormanray.local.standins import NAMES, REPLACED

LOG = logging.getLogger(__name__)

BOOT_TIMEOUT_S = 60.0
# For programs that the host runs inside, where they can be kept from ending.
INSIDE_TIMEOUT_S = 120.0
SAID_BYTES = 4096
# More than a disk that was limited can hold: see ROOMY in fill.py.
DISK_BYTES_MAX = 3 << 30
ID_RANGE = 65_536
# 0x70000000: below 2^31, above what distributions and container runtimes hand out.
FIRST_ID = 1_879_048_192
STANDINS_AT = "/usr/local/sbin"
# Run inside before the script: the agent's folder, file mask and limits (agent-facts §2, §3).
ENTER = (
    'umask 022; ulimit -Sn 1024 2>/dev/null; cd -- "$0" 2>/dev/null || '
    "{ echo 'fork/exec /usr/bin/sh: no such file or directory' >&2; exit 1; }; "
    'exec sh -c "$1"'
)


def owner_behind_root() -> Owner:
    """Return who stands behind root inside: an unprivileged range for root, else the user."""
    if os.geteuid() != 0:
        return Owner(os.geteuid(), os.getegid(), 1)
    for kind in ("uid_map", "gid_map"):
        lines = Path("/proc/self", kind).read_text().splitlines()
        spans = [(int(line.split()[0]), int(line.split()[2])) for line in lines]
        if not any(first <= FIRST_ID and first + n >= FIRST_ID + ID_RANGE for first, n in spans):
            return Owner(0, 0, 1)
    return Owner(FIRST_ID, FIRST_ID, ID_RANGE)


def hidden_places(hidden: Iterable[Path], environ: Mapping[str, str]) -> list[str]:
    """Return what of the user's and the cloud's no instance may see."""
    places = [*hidden, Path.home()]
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "PMR_LOCAL_DIR"):
        places += [Path(environ[name])] if environ.get(name) else []
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        places += [Path(environ[name])] if environ.get(name) else []
    resolved = {str(place.expanduser().resolve()) for place in places}
    return sorted(resolved - {"/"})


def layers(hide: Iterable[str], shown: str) -> list[str]:
    """Return what to hide, and the interpreter to show again, outermost first."""
    own = ("/var/", "/root/", "/home/", "/tmp/", "/run/")  # noqa: S108 (a prefix, not a file)
    hidden = {place for place in hide if not f"{place}/".startswith(own)}
    needs = f"{shown}/".startswith((*own, *(f"{place}/" for place in hidden)))
    return sorted(hidden | {shown}) if needs and shown not in hide else sorted(hidden)


class Nested:
    """A running instance made of namespaces."""

    def __init__(self, folder: InstanceFolder, way: Way) -> None:
        self._folder = folder
        self._way = way
        self._uplink: Uplink | None = None
        # What listens on the loopback of an instance with a network of its own.
        self.listening: socket.socket | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._first = -1
        self._first_fd = -1
        self._life: socket.socket | None = None  # the instance ends when it closes
        self._disk: _LimitedDisk | None = None

    def boot(self, plan: dict[str, object]) -> None:
        """Start the instance's first process.

        Raises:
            OSError: the kernel or the machine's set-up does not allow a part of the construction.
        """
        program = Path(__file__).with_name("nest.py")
        # No pipe: root inside could open that for writing and keep it from ever closing.
        self._life, life = socket.socketpair()
        ours, theirs = socket.socketpair()
        with life, theirs:
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), json.dumps(plan)],
                stdin=life.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
            )
        self._keeper = keeper
        try:
            with ours:
                self._first = self._read_report(ours)
            self._first_fd = os.pidfd_open(self._first)
            if self._way is not Way.MACHINE:
                self._uplink = Uplink(self._way, keeper=keeper.pid, first=self._first)
        except OSError:
            self.end()
            raise

    def _read_report(self, report: socket.socket) -> int:
        said = b""
        while b"ready\n" not in said or b"pid " not in said:
            data = b""
            if _readable(report.fileno()):
                data, descriptors, _flags, _address = socket.recv_fds(report, 4096, 1)
                for descriptor in descriptors:
                    self.listening = socket.socket(fileno=descriptor)
            said += data
            if not data or b"error: " in said:
                _, _, reason = said.decode(errors="replace").partition("error: ")
                raise OSError(f"the instance did not boot: {reason.strip() or 'no answer'}")
        words = said.split()
        return int(words[words.index(b"pid") + 1])

    def launch(self, errand: Errand, outputs: tuple[int, int]) -> Entered:
        """Start a script inside, as root."""
        if self._keeper is None:
            raise OSError(f"{self._folder.instance_id} is not running")
        enter = self._enter()
        kept = ",".join(f"+{name}" for name in KEPT_CAPABILITIES)
        confine = [tool("setpriv"), f"--bounding-set=-all,{kept}", "--inh-caps=-all"]
        run = ["/bin/sh", "-c", ENTER, errand.working_directory, f"/{errand.script}"]
        return Entered(
            subprocess.Popen(
                [*enter, *confine, *run],
                stdin=subprocess.DEVNULL,
                stdout=outputs[0],
                stderr=outputs[1],
                env=errand.environment,
                cwd="/",
                process_group=0,
            )
        )

    def limit_disk(self, free: int) -> None:
        """Leave `free` bytes on the disk under /var/lib/pmr (-1: no limit).

        What has a file open there keeps writing to the disk as it was, if it had no limit yet.

        Raises:
            OSError: the instance is not running, or the kernel does not allow it.
        """
        if self._keeper is None:
            raise OSError(f"{self._folder.instance_id} is not running")
        python = str(Path(sys.base_prefix, "bin", "python3").resolve())
        source = Path(__file__).with_name("fill.py").read_text()
        if self._disk is not None:
            _run_bounded([*self._enter(), python, "-I", "-S", "-c", source, str(free)])
            return
        # Opened before: whatever is done inside meanwhile, it is what the limited disk covers.
        kept = self._folder.part(JOBS)
        try:
            _run_bounded([*self._enter(), python, "-I", "-S", "-c", source, str(free)])
            with Directory.at(Path(f"/proc/{self._first}/root")) as inside:
                memory = inside.enter(JOBS)
            users = os.open(f"/proc/{self._keeper.pid}/ns/user", os.O_RDONLY)
            self._disk = _LimitedDisk(kept, memory, users)
        except OSError:
            kept.close()
            raise

    def _enter(self) -> list[str]:
        """Return the words that run a program inside, as root with all rights of the inside."""
        assert self._keeper is not None  # noqa: S101 (asked before)
        enter = [tool("nsenter")]
        enter += ["--preserve-credentials"] if self._folder.owner.count == 1 else []
        outer, inner = f"/proc/{self._keeper.pid}/ns", f"/proc/{self._first}/ns"
        spaces = ("pid", "uts", "ipc", *(("net",) if self._uplink is not None else ()))
        # Only from the outer user namespace, which owns the others, is the inner one entered.
        outside = [f"--user={outer}/user", *(f"--{n}={inner}/{n}" for n in spaces)]
        inside = [f"--user={inner}/user", f"--mount={inner}/mnt"]
        return [*enter, *outside, *enter, *inside]

    def pids(self) -> list[int]:
        """Return the instance's processes, as the machine numbers them."""
        return in_namespace_of(self._first) if self._keeper is not None else []

    def end(self) -> None:
        """End every process of the instance and wait until they are gone."""
        keeper = self._keeper
        if keeper is None:
            return
        self._keeper = None
        if self._first_fd >= 0:
            signal.pidfd_send_signal(self._first_fd, signal.SIGKILL)
            _readable(self._first_fd, None)
            os.close(self._first_fd)
        if self._life is not None:
            self._life.close()
        keeper.kill()
        keeper.wait()
        if self._uplink is not None:
            self._uplink.end()
        if self.listening is not None:
            self.listening.close()
        disk, self._disk = self._disk, None
        if disk is not None:
            self._save(disk)

    def _save(self, disk: _LimitedDisk) -> None:
        try:
            disk.save(preserve=self._folder.owner.count == 1)
        except OSError:
            # The instance must still end: what cannot be saved is lost with its disk.
            LOG.exception("%s: the disk with a limit is not saved", self._folder.instance_id)
        finally:
            disk.close()


class _LimitedDisk:
    """An instance's /var/lib/pmr that lies in memory, held beyond the instance's end."""

    def __init__(self, kept: Directory, memory: Directory, users: int) -> None:
        """`kept` is the folder that it covers; `users` the user namespace of the instance."""
        self._kept = kept
        self._memory = memory
        self._users = users

    def close(self) -> None:
        """Let go of it."""
        self._kept.close()
        self._memory.close()
        os.close(self._users)

    def save(self, *, preserve: bool) -> None:
        """Bring what lies in memory back to the folder. Nothing of the instance may be running.

        The instance's root could have put any folder that it sees in the place of the one in
        memory: so it is copied with the rights of that root alone, and only as much as fits.

        Raises:
            OSError: it is not in memory, or it cannot be copied.
        """
        kept, memory = self._kept.fileno(), self._memory.fileno()
        size = os.fstatvfs(memory)
        if os.fstat(kept).st_dev == os.fstat(memory).st_dev:
            raise OSError("it is no disk of its own any more")
        if (size.f_blocks - size.f_bfree) * size.f_frsize > DISK_BYTES_MAX:
            raise OSError("it holds more than a limited disk can")
        self._kept.empty()
        as_root_inside = [tool("nsenter"), f"--user=/proc/self/fd/{self._users}"]
        as_root_inside += ["--preserve-credentials"] if preserve else []
        copy = [tool("cp"), "-a", f"/proc/self/fd/{memory}/.", f"/proc/self/fd/{kept}"]
        _run_bounded([*as_root_inside, *copy], descriptors=(self._users, memory, kept))


class Entered:
    """A script inside, seen from outside: `nsenter`, which ends as the script does."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._ended = os.pidfd_open(process.pid)

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when the script ends."""
        return self._ended

    def exit_code(self) -> int | None:
        """Return the script's exit code once it has ended."""
        # It is not collected yet: as long as it is a zombie, its group's id is not used again.
        status = os.waitid(os.P_PIDFD, self._ended, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        return status.si_status if status.si_code == os.CLD_EXITED else 128 + status.si_status

    def kill(self) -> None:
        """Send one SIGKILL to the script's process group."""
        os.killpg(self._process.pid, signal.SIGKILL)

    def release(self) -> None:
        """Collect the process."""
        self._process.wait()
        os.close(self._ended)


def _run_bounded(words: list[str], descriptors: tuple[int, ...] = ()) -> None:
    """Run a program that something inside may keep from ending, or have say anything.

    Raises:
        OSError: it did not succeed in time; the message is the last line that it wrote.
    """
    program = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={},
        cwd="/",
        pass_fds=descriptors,
    )
    assert program.stderr is not None  # noqa: S101 (it was opened as a pipe)
    said = b""
    deadline_s = time.monotonic() + INSIDE_TIMEOUT_S
    with program.stderr as report:
        while len(said) < SAID_BYTES and _readable(
            report.fileno(), max(0.0, deadline_s - time.monotonic())
        ):
            data = os.read(report.fileno(), SAID_BYTES)
            said += data
            if not data:
                break
    try:
        code = program.wait(max(0.0, deadline_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        program.kill()
        code = program.wait()
    if code != 0:
        text = said[:SAID_BYTES].decode(errors="replace").strip()
        raise OSError(text.rpartition("\n")[2] or f"{words[0]} ended with {code}")


def _readable(descriptor: int, timeout_s: float | None = BOOT_TIMEOUT_S) -> bool:
    """Wait until there is something to read."""
    # Not `select`, which ends at descriptor 1023: that is some 200 instances.
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(None if timeout_s is None else timeout_s * 1000))


def tool(name: str) -> str:
    """Return where a program of the machine is.

    Raises:
        OSError: it is not installed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        # Where the usual folders hold next to nothing, as on NixOS.
        found = shutil.which(name, path=os.environ.get("PATH", ""))
    if found is None:
        raise OSError(f"{name} is not installed")
    return found


def make_plan(
    folder: InstanceFolder, standins: Path, hidden: Iterable[Path], hostname: str
) -> dict[str, object]:
    """Return what `nest.py` needs to know, but for the network."""
    shown = str(Path(sys.base_prefix).resolve())
    to_layer = layers(hidden_places(hidden, os.environ), shown)
    sources = {"standins": str(standins), "standin": str(standins / "shutdown")}
    if shown in to_layer:
        sources[shown] = shown
    return {
        "uid": folder.owner.uid,
        "gid": folder.owner.gid,
        "uid_count": folder.owner.count,
        "gid_count": folder.owner.count,
        "hostname": hostname,
        "folder": str(folder.path),
        "own": [*OWN_TOP, BOOT_ID],
        "sources": sources,
        "machine_etc": MACHINE_ETC,
        "layers": to_layer,
        "standins": STANDINS_AT if _is_plain_folder(STANDINS_AT) else "/standins",
        "replaced": sorted({str(Path(path).resolve()) for path in REPLACED if _replaceable(path)}),
    }


def _is_plain_folder(path: str) -> bool:
    # A link would lead elsewhere once the root is another one.
    return Path(path).is_dir() and str(Path(path).resolve()) == path


def _replaceable(path: str) -> bool:
    # Where one program serves many names, its other names must stay what they are.
    return Path(path).is_file() and Path(path).resolve().name in NAMES
