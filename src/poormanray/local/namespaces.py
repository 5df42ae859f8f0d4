"""Instances as Linux namespaces: users, mounts and processes of their own."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from poormanray.local.executions import Errand
from poormanray.local.folder import InstanceFolder, Owner, remove_tree
from poormanray.local.inside import in_namespace_of
from poormanray.local.nest import KEPT_CAPABILITIES
from poormanray.local.network import PATH, RESOLVER, Uplink, Way
from poormanray.local.standins import NAMES, REPLACED

BOOT_TIMEOUT_S = 60.0
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
        self._disk = -1  # /var/lib/pmr where it is in memory: what holds it beyond the end

    def boot(self, plan: dict[str, object]) -> None:
        """Start the instance's first process.

        Raises:
            OSError: the kernel or the machine's set-up does not allow a part of the construction.
        """
        program = Path(__file__).with_name("nest.py")
        ours, theirs = socket.socketpair()
        with theirs:
            keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(program), json.dumps(plan)],
                stdin=subprocess.PIPE,
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
        enter = [*self._enter(), python, "-I", "-S", "-c", source, str(free)]
        ended = subprocess.run(enter, capture_output=True, env={}, cwd="/", check=False)
        if ended.returncode != 0:
            raise OSError(ended.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        if self._disk < 0:
            at = f"/proc/{self._first}/root/var/lib/pmr"
            self._disk = os.open(at, os.O_RDONLY | os.O_DIRECTORY)

    def _save_disk(self) -> None:
        """Bring what lay in memory back to the folder. Nothing of the instance may be running."""
        kept = self._folder.path / "var" / "lib" / "pmr"
        for path in kept.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            else:
                path.unlink()
        subprocess.run(
            [tool("cp"), "-a", f"/proc/self/fd/{self._disk}/.", str(kept)],
            pass_fds=[self._disk],
            check=True,
        )
        os.close(self._disk)
        self._disk = -1

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
        if keeper.stdin is not None:
            keeper.stdin.close()
        keeper.kill()
        keeper.wait()
        if self._uplink is not None:
            self._uplink.end()
        if self.listening is not None:
            self.listening.close()
        if self._disk >= 0:
            self._save_disk()


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


def network_plan(way: Way, port: int) -> dict[str, object]:
    """Return what `nest.py` needs to make a network; `port` is the daemon's, 0 for any."""
    return {"port": port, "resolver": "" if way is Way.MACHINE else RESOLVER}


def make_plan(
    folder: InstanceFolder, standins: Path, hidden: Iterable[Path], hostname: str
) -> dict[str, object]:
    """Return what `nest.py` needs to know, but for the network."""
    shown = str(Path(sys.base_prefix).resolve())
    to_layer = layers(hidden_places(hidden, os.environ), shown)
    etc = ("passwd", "group", "shadow", "gshadow", "hostname", "hosts")
    sources = {name: str(folder.path / name) for name in ("var", "root", "home", "tmp", "run")}
    sources |= {f"etc/{name}": str(folder.path / "etc" / name) for name in etc}
    sources |= {"standins": str(standins), "standin": str(standins / "shutdown")}
    sources |= {"boot_id": str(folder.path / "boot_id")}
    if shown in to_layer:
        sources[shown] = shown
    return {
        "uid": folder.owner.uid,
        "gid": folder.owner.gid,
        "uid_count": folder.owner.count,
        "gid_count": folder.owner.count,
        "hostname": hostname,
        "sources": sources,
        "etc": etc,
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
