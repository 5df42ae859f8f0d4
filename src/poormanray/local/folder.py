"""The folder that an instance is: its own parts of the file system.

What runs inside may be hostile to the machine's user, so nothing here follows a link that lies in
a folder which is writable from inside: such folders are made before the first boot, emptied with
`rmtree` (which follows none), and entered step by step with O_NOFOLLOW.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

# What a task may be run as. Without a range of user ids there is only root.
LOGIN_USER = "ec2-user"
LOGIN_UID = 1000

SKELETON = (
    ("var/cache", 0o755),
    ("var/lib/amazon/ssm", 0o700),
    ("var/lib/pmr", 0o755),
    ("var/log/amazon/ssm", 0o700),
    ("var/opt", 0o755),
    ("var/spool/cron", 0o755),
    ("var/tmp", 0o1777),
    ("root", 0o700),
    ("home", 0o755),
)
VOLATILE = (("tmp", 0o1777), ("run", 0o755))
VOLATILE_BELOW = (("run/screen", 0o1777), ("run/lock", 0o1777), ("run/user", 0o755))
CONTROL = "run/initctl"
# Stands for what the metadata service says of a spot instance's end; there is no such service.
NOTICE = "run/spot-notice"
# Where the resolver's real configuration may be: folders that an instance has of its own.
_HIDDEN_CONFIGURATION = ("/run/", "/var/")


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and group of the machine that stand behind root of the instance."""

    uid: int
    gid: int
    count: int


class InstanceFolder:
    """One instance's files."""

    def __init__(self, path: Path, instance_id: str, owner: Owner) -> None:
        self.path = path
        self.instance_id = instance_id
        self.owner = owner

    def create(self, hostname: str, *, open_root: bool) -> None:
        """Make what lasts as long as the instance; nothing happens when it is there."""
        if (self.path / "etc" / "hostname").exists():
            return
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, mode in SKELETON:
            self._make(name, mode)
        if open_root:
            (self.path / "root").chmod(0o711)
        (self.path / "var" / "run").symlink_to("/run")
        (self.path / "var" / "lock").symlink_to("/run/lock")
        if self.owner.count > LOGIN_UID:
            self._make(f"home/{LOGIN_USER}", 0o700)
            self._give(self.path / "home" / LOGIN_USER, LOGIN_UID)
        self._write_etc(hostname)

    def prepare_boot(self) -> Path:
        """Make what lasts from one boot to the next stop; return the control pipe's path."""
        self.empty()
        for name, mode in (*VOLATILE, *VOLATILE_BELOW):
            self._make(name, mode)
        self._copy_resolver()
        boot_id = self.path / "boot_id"
        boot_id.write_text(f"{uuid.uuid4()}\n")
        boot_id.chmod(0o644)
        control = self.path / CONTROL
        os.mkfifo(control)
        control.chmod(0o666)
        self._give(control)
        return control

    def empty(self) -> None:
        """Empty /tmp and /run. Nothing of the instance may be running."""
        for name, _mode in VOLATILE:
            remove_tree(self.path / name)

    def remove(self) -> None:
        """Remove everything. Nothing of the instance may be running."""
        remove_tree(self.path)

    def write_script(self, command_id: str, script: bytes) -> str:
        """Write a command's script where the agent does; return its path below the folder.

        Raises:
            OSError: something inside has replaced a part of the way by a link, or the disk is full.
        """
        below = f"var/lib/amazon/ssm/{self.instance_id}/document/orchestration/{command_id}"
        below = f"{below}/awsrunShellScript/0.awsrunShellScript"
        at = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in below.split("/"):
                below_it = self._descend(at, name)
                os.close(at)
                at = below_it
            # A script runs again under the same id after exit code 194 (agent-facts §5).
            with contextlib.suppress(FileNotFoundError):
                os.unlink("_script.sh", dir_fd=at)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            file = os.open("_script.sh", flags, 0o700, dir_fd=at)
            with os.fdopen(file, "wb") as writing:
                writing.write(script)
                os.fchmod(writing.fileno(), 0o700)
                os.fchown(writing.fileno(), self.owner.uid, self.owner.gid)
        finally:
            os.close(at)
        return f"{below}/_script.sh"

    def write_notice(self, notice: str) -> None:
        """Write what EC2 says of the instance's end where its job runners look.

        Raises:
            OSError: it has been written before, or the disk is full.
        """
        folder, _, name = NOTICE.partition("/")
        at = os.open(self.path / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            # Whole, or not there: it is looked for while it is written.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(f".{name}", flags, 0o644, dir_fd=at), "w") as writing:
                writing.write(notice)
            os.rename(f".{name}", name, src_dir_fd=at, dst_dir_fd=at)
        finally:
            os.close(at)

    def _descend(self, at: int, name: str) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        with contextlib.suppress(FileNotFoundError):
            return os.open(name, flags, dir_fd=at)
        os.mkdir(name, 0o700, dir_fd=at)
        made = os.open(name, flags, dir_fd=at)
        os.fchown(made, self.owner.uid, self.owner.gid)
        return made

    def _make(self, name: str, mode: int) -> None:
        path = self.path
        for part in Path(name).parts:
            path /= part
            if not path.exists():
                path.mkdir()
                path.chmod(0o755)
                self._give(path)
        path.chmod(mode)

    def _give(self, path: Path, uid: int = 0) -> None:
        os.chown(path, self.owner.uid + uid, self.owner.gid + uid, follow_symlinks=False)

    def _write_etc(self, hostname: str) -> None:
        users = [("root", 0, "/root", "/bin/bash")]
        groups = [("root", 0)]
        if self.owner.count == 1:
            # The same user under a second number: see standins/screen.sh.
            users += [("root", 1, "/root", "/bin/bash")]
            groups += [("root", 1)]
        if self.owner.count > LOGIN_UID:
            users += [("daemon", 1, "/usr/sbin", "/sbin/nologin")]
            users += [("nobody", 65534, "/", "/sbin/nologin")]
            users += [(LOGIN_USER, LOGIN_UID, f"/home/{LOGIN_USER}", "/bin/bash")]
            groups += [("daemon", 1), ("tty", 5), ("wheel", 10), ("utmp", 43), ("users", 100)]
            groups += [("nogroup", 65534), (LOGIN_USER, LOGIN_UID)]
        etc = self.path / "etc"
        etc.mkdir(exist_ok=True)
        passwd = "".join(f"{n}:x:{i}:{i}:{n}:{home}:{sh}\n" for n, i, home, sh in users)
        (etc / "passwd").write_text(passwd)
        (etc / "group").write_text("".join(f"{name}:x:{gid}:\n" for name, gid in groups))
        (etc / "shadow").write_text("".join(f"{user[0]}:*:19000::::::\n" for user in users))
        (etc / "gshadow").write_text("".join(f"{name}:*::\n" for name, _gid in groups))
        hosts = f"127.0.0.1 localhost {hostname}\n::1 localhost\n"
        (etc / "hosts").write_text(hosts)
        for name in ("passwd", "group", "hosts"):
            (etc / name).chmod(0o644)
        for name in ("shadow", "gshadow"):
            (etc / name).chmod(0o600)
            self._give(etc / name)
        (etc / "hostname").write_text(f"{hostname}\n")
        (etc / "hostname").chmod(0o644)

    def _copy_resolver(self) -> None:
        """Keep names resolvable where /etc/resolv.conf is a link into a folder that is ours."""
        real = Path("/etc/resolv.conf").resolve()
        if str(real).startswith(_HIDDEN_CONFIGURATION) and real.is_file():
            copy = self.path / str(real).removeprefix("/")
            if copy.is_relative_to(self.path / "run"):
                self._make(str(copy.parent.relative_to(self.path)), 0o755)
                shutil.copyfile(real, copy)
                copy.chmod(0o644)


def remove_tree(path: Path) -> None:
    """Remove a folder with all in it, following no link; folders without permission too.

    Nothing may be changing it meanwhile.
    """
    if not path.is_symlink() and not path.exists():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        _permit(path)
        shutil.rmtree(path)


def _permit(path: Path) -> None:
    """Let the owner enter and change a folder and those below it."""
    folders = [path]
    while folders:
        folder = folders.pop()
        folder.chmod(0o700)
        with os.scandir(folder) as entries:
            folders += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
