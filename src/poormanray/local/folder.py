"""The folder that an instance is: its own parts of the file system.

What runs inside may be hostile to the machine's user, and the daemon has rights that it has not.
So every path below such a folder is walked through `Directory`, step by step from the folder of
all instances, and no step follows a link.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# What a task may be run as. Without a range of user ids there is only root.
LOGIN_USER = "ec2-user"
LOGIN_UID = 1000

SKELETON = (
    ("etc", 0o755),
    ("var/cache", 0o755),
    ("var/lib/amazon/ssm", 0o700),
    ("var/lib/pmr", 0o755),
    ("var/log/amazon/ssm", 0o700),
    ("var/opt", 0o755),
    ("var/spool/cron", 0o755),
    ("var/tmp", 0o1777),
    ("root", 0o711),
    ("home", 0o755),
)
VOLATILE = (("tmp", 0o1777), ("run", 0o755))
VOLATILE_BELOW = (("run/screen", 0o1777), ("run/lock", 0o1777), ("run/user", 0o755))
CONTROL = "run/initctl"
# Stands for what the metadata service says of a spot instance's end; there is no such service.
NOTICE = "run/spot-notice"
JOBS = "var/lib/pmr"
BOOT_ID = "boot_id"
_CREATED = ".created"
# Where the resolver's real configuration may be: folders that an instance has of its own.
_HIDDEN_CONFIGURATION = ("/run/", "/var/")
# Where an instance shows the machine's /etc: its own /etc is full of links into it.
MACHINE_ETC = "/.etc"
# The links into it, made once for all instances: one more name for such a link costs a tenth of a
# new one (measured: 1.3 ms for 130 names, against 20 ms), and nobody can change what a link says.
ETC_LINKS = ".etc"
# The instance's own in /etc, with what programs that change users leave beside them.
_USER_FILES = ("passwd", "group", "shadow", "gshadow", "subuid", "subgid")
_OWN_ETC = {"hosts", "hostname", ".pwd.lock", *_USER_FILES} | {
    f"{name}{end}" for name in _USER_FILES for end in ("-", "+", ".lock", ".org")
}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What is written meanwhile is found in the next round.
_EMPTY_ROUNDS = 20


@dataclass(frozen=True, slots=True)
class Owner:
    """The user and group of the machine that stand behind root of the instance."""

    uid: int
    gid: int
    count: int


class Directory:
    """An open folder. Nothing that is done through it follows a link; names have no slash.

    The methods raise OSError where a name is not what it should be: a link, a pipe or a file in
    the place of a folder, a folder in the place of a file.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor."""
        self._fd = descriptor

    @classmethod
    def at(cls, path: Path) -> Self:
        """Open a folder that nothing inside an instance can put something else in place of."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def fileno(self) -> int:
        """Return its descriptor."""
        return self._fd

    def enter(self, below: str) -> Directory:
        """Open a folder in or below this one."""
        found = Directory(os.dup(self._fd))
        for name in below.split("/"):
            with found:
                found = Directory(os.open(_plain(name), _FOLDER, dir_fd=found._fd))
        return found

    def make_new(self, name: str, mode: int) -> Directory:
        """Make a folder and open it."""
        os.mkdir(_plain(name), mode, dir_fd=self._fd)
        return self.enter(name)

    def make(
        self, below: str, mode: int = 0o755, owner: Owner | None = None, *, user: int = 0
    ) -> Directory:
        """Open a folder below this one, and make what is missing on the way to it.

        What is made belongs to a user of the instance, or without `owner` to the daemon's user;
        the last folder gets `mode`, and those above it 0755.
        """
        found = Directory(os.dup(self._fd))
        *above, last = below.split("/")
        for name in above:
            with found:
                found = found._make_one(name, 0o755, owner, user)
        with found:
            found = found._make_one(last, mode, owner, user)
        os.fchmod(found._fd, mode)
        return found

    def _make_one(self, name: str, mode: int, owner: Owner | None, user: int) -> Directory:
        with contextlib.suppress(FileNotFoundError):
            return self.enter(name)
        os.mkdir(_plain(name), 0o700, dir_fd=self._fd)
        made = self.enter(name)
        os.fchmod(made._fd, mode)
        if owner is not None:
            os.fchown(made._fd, owner.uid + user, owner.gid + user)
        return made

    def kind(self, name: str) -> int:
        """Return the type of what has this name, as in `stat.S_IFMT`; 0 when nothing has it."""
        try:
            return stat.S_IFMT(os.lstat(_plain(name), dir_fd=self._fd).st_mode)
        except FileNotFoundError:
            return 0

    def write(self, name: str, data: bytes, mode: int = 0o644, owner: Owner | None = None) -> None:
        """Write a file aside and rename it, so that it is whole or not there.

        It replaces what is no folder. It belongs to the instance's root, or without `owner` to the
        daemon's user.
        """
        fresh = f".{uuid.uuid4().hex}"
        file = os.open(fresh, _NEW_FILE, 0o600, dir_fd=self._fd)
        try:
            with os.fdopen(file, "wb") as writing:
                writing.write(data)
                writing.flush()
                os.fchmod(file, mode)
                if owner is not None:
                    os.fchown(file, owner.uid, owner.gid)
            os.rename(fresh, _plain(name), src_dir_fd=self._fd, dst_dir_fd=self._fd)
        except OSError:
            os.unlink(fresh, dir_fd=self._fd)
            raise

    def link(self, name: str, target: str) -> None:
        """Make a symbolic link; it replaces what is no folder."""
        with contextlib.suppress(FileExistsError):
            os.symlink(target, _plain(name), dir_fd=self._fd)
            return
        fresh = f".{uuid.uuid4().hex}"
        os.symlink(target, fresh, dir_fd=self._fd)
        os.rename(fresh, _plain(name), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def share(self, name: str, other: Directory) -> None:
        """Give a link of another folder the same name here."""
        both = _plain(name)
        os.link(both, both, src_dir_fd=other._fd, dst_dir_fd=self._fd, follow_symlinks=False)

    def pipe(self, name: str, mode: int, owner: Owner) -> int:
        """Make a named pipe of the instance's root; return it, open both ways."""
        os.mkfifo(_plain(name), 0o600, dir_fd=self._fd)
        flags = os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        pipe = os.open(name, flags, dir_fd=self._fd)
        try:
            os.fchmod(pipe, mode)
            os.fchown(pipe, owner.uid, owner.gid)
        except OSError:
            os.close(pipe)
            raise
        return pipe

    def remove(self, name: str) -> None:
        """Remove what has this name, and all that is in it; nothing happens when nothing has it."""
        kind = self.kind(name)
        if kind == stat.S_IFDIR:
            with self._enter_whatever_mode(name) as folder:
                folder.empty()
            os.rmdir(name, dir_fd=self._fd)
        elif kind:
            os.unlink(name, dir_fd=self._fd)

    def names(self) -> list[str]:
        """Return the names in it."""
        return os.listdir(self._fd)  # noqa: PTH208 (a descriptor)

    def empty(self) -> None:
        """Remove all that is in it, also folders that their owner may not enter.

        However deep the tree is, it takes three descriptors and no recursion: what a folder holds
        is moved up here before the folder is removed.
        """
        if os.geteuid() != 0:
            os.fchmod(self._fd, 0o700)
        for round_ in range(_EMPTY_ROUNDS):
            try:
                while names := self.names():
                    for name in names:
                        self._remove_level(name)
            except (FileNotFoundError, FileExistsError):
                if round_ == _EMPTY_ROUNDS - 1:
                    raise
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or round_ == _EMPTY_ROUNDS - 1:
                    raise
            else:
                return

    def _remove_level(self, name: str) -> None:
        if self.kind(name) != stat.S_IFDIR:
            os.unlink(name, dir_fd=self._fd)
            return
        with self._enter_whatever_mode(name) as folder:
            for child in folder.names():
                if folder.kind(child) == stat.S_IFDIR:
                    # Its own mode decides whether its owner may move it.
                    folder._enter_whatever_mode(child).close()
                    here = f".{uuid.uuid4().hex}"
                    os.rename(child, here, src_dir_fd=folder._fd, dst_dir_fd=self._fd)
                else:
                    os.unlink(child, dir_fd=folder._fd)
        os.rmdir(name, dir_fd=self._fd)

    def _enter_whatever_mode(self, name: str) -> Directory:
        """Enter a folder that is to be removed; its owner is let in first."""
        if os.geteuid() == 0:
            return self.enter(name)
        if sys.platform == "linux":
            # By its descriptor: Linux has no chmod that follows no link before 6.6.
            at = os.open(_plain(name), os.O_PATH | _FOLDER, dir_fd=self._fd)
            try:
                Path(f"/proc/self/fd/{at}").chmod(0o700)
            finally:
                os.close(at)
        else:
            os.chmod(_plain(name), 0o700, dir_fd=self._fd, follow_symlinks=False)
        return self.enter(name)


def _plain(name: str) -> str:
    """Return a name that is one step down; anything else would lead elsewhere."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise OSError(errno.EINVAL, f"{name!r} is not a name")
    return name


class InstanceFolder:
    """One instance's files."""

    def __init__(
        self, instances: Directory, path: Path, owner: Owner, *, own_etc: bool = True
    ) -> None:
        """`instances` is the open folder of all; `path` is for those inside, never opened here.

        `own_etc`: the instance shows its own /etc, which has links to what is the machine's.
        """
        self._instances = instances
        self.path = path
        self.instance_id = path.name
        self.owner = owner
        self._own_etc = own_etc

    def part(self, below: str = "") -> Directory:
        """Open a folder of the instance."""
        return self._instances.enter(f"{self.instance_id}/{below}".rstrip("/"))

    def create(self, hostname: str) -> None:
        """Make what lasts as long as the instance; nothing happens when it is there."""
        with self._instances.make(self.instance_id, 0o700) as top:
            if top.kind(_CREATED):
                return
            for name, mode in SKELETON:
                top.make(name, mode, self.owner).close()
            with top.enter("var") as var:
                var.link("run", "/run")
                var.link("lock", "/run/lock")
            if self.owner.count > LOGIN_UID:
                with top.enter("home") as home:
                    home.make(LOGIN_USER, 0o700, self.owner, user=LOGIN_UID).close()
            with top.enter("etc") as etc:
                self._fill_etc(etc, hostname)
            top.write(_CREATED, b"")

    def prepare_boot(self, resolver: str = "") -> int:
        """Make what lasts from one boot to the next stop; return the open control pipe.

        `resolver` is the address that resolves names; "": the machine's configuration does.
        """
        self.empty()
        with self.part() as top:
            for name, mode in (*VOLATILE, *VOLATILE_BELOW):
                top.make(name, mode, self.owner).close()
            self._copy_resolver(top)
            if resolver:
                # As DHCP does at each boot, whatever is there.
                with top.enter("etc") as etc:
                    etc.remove("resolv.conf")
                    etc.write("resolv.conf", f"nameserver {resolver}\n".encode(), 0o644, self.owner)
            top.write(BOOT_ID, f"{uuid.uuid4()}\n".encode())
        folder, _, name = CONTROL.partition("/")
        with self.part(folder) as run:
            # Only root of the instance may stop it.
            return run.pipe(name, 0o600, self.owner)

    def empty(self) -> None:
        """Empty /tmp and /run. Nothing of the instance may be running."""
        with self.part() as top:
            for name, _mode in VOLATILE:
                top.remove(name)

    def remove(self) -> None:
        """Remove everything. Nothing of the instance may be running."""
        self._instances.remove(self.instance_id)

    def write_script(self, command_id: str, script: bytes) -> str:
        """Write a command's script where the agent does; return its path below the folder.

        Raises:
            OSError: something inside has replaced a part of the way by a link, or the disk is full.
        """
        below = f"var/lib/amazon/ssm/{self.instance_id}/document/orchestration/{command_id}"
        below = f"{below}/awsrunShellScript/0.awsrunShellScript"
        with self.part() as top, top.make(below, 0o700, self.owner) as folder:
            # A script runs again under the same id after exit code 194 (agent-facts §5).
            folder.write("_script.sh", script, 0o700, self.owner)
        return f"{below}/_script.sh"

    def write_notice(self, notice: str) -> None:
        """Write what EC2 says of the instance's end where its job runners look.

        Raises:
            OSError: the disk is full.
        """
        folder, _, name = NOTICE.partition("/")
        with self.part(folder) as run:
            run.write(name, notice.encode())

    def _fill_etc(self, etc: Directory, hostname: str) -> None:
        for name, text in self._users().items():
            mode = 0o600 if name in {"shadow", "gshadow"} else 0o644
            etc.write(name, text.encode(), mode, self.owner)
        hosts = f"127.0.0.1 localhost {hostname}\n::1 localhost\n"
        etc.write("hosts", hosts.encode(), 0o644, self.owner)
        etc.write("hostname", f"{hostname}\n".encode(), 0o644, self.owner)
        if self._own_etc:
            with self._instances.enter(ETC_LINKS) as links:
                for name in links.names():
                    etc.share(name, links)

    def _users(self) -> dict[str, str]:
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
        return {
            "passwd": "".join(f"{n}:x:{i}:{i}:{n}:{home}:{sh}\n" for n, i, home, sh in users),
            "group": "".join(f"{name}:x:{gid}:\n" for name, gid in groups),
            "shadow": "".join(f"{user[0]}:*:19000::::::\n" for user in users),
            "gshadow": "".join(f"{name}:*::\n" for name, _gid in groups),
            "subuid": "",
            "subgid": "",
        }

    def _copy_resolver(self, top: Directory) -> None:
        """Keep names resolvable where /etc/resolv.conf is a link into a folder that is ours."""
        real = Path("/etc/resolv.conf").resolve()
        if str(real).startswith(_HIDDEN_CONFIGURATION) and real.is_file():
            below = str(real.parent).removeprefix("/")
            if below.split("/")[0] == "run":
                with top.make(below, 0o755, self.owner) as folder:
                    folder.write(real.name, real.read_bytes(), 0o644, self.owner)


def link_machine_etc(instances: Directory) -> None:
    """Make the links that show the machine's configuration in every instance's own /etc."""
    instances.remove(ETC_LINKS)
    with instances.make(ETC_LINKS, 0o700) as links, os.scandir("/etc") as entries:
        for one in entries:
            if one.name not in _OWN_ETC:
                own = str(Path(one).readlink()) if one.is_symlink() else ""
                links.link(one.name, own or f"{MACHINE_ETC}/{one.name}")
