"""Build one instance out of namespaces: a program of its own, run by the host and by nobody else.

It is started as `python -I -S nest.py PLAN` and uses the standard library alone. Of its processes
two stay: the *keeper* (the host's child, in the outer user namespace only) and the instance's
first process (in the inner one). Keeper and first process both end when standard input closes,
whose other end only the host holds; the kernel then ends the whole instance.
The keeper never collects the first process, so that its process id cannot be used again.

Standard output is a socket: `pid N`; `listening` with the descriptor of a socket that listens on
the instance's own loopback, if it has one; then `ready` or `error: ...`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import signal
import socket
import struct
import sys
from typing import Any, NoReturn

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
# linux/sockios.h, linux/if.h, linux/route.h
SIOCADDRT, SIOCGIFFLAGS, SIOCSIFFLAGS = 0x890B, 0x8913, 0x8914
IFF_UP, RTF_UP, RTF_REJECT = 1, 1, 0x200
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on every architecture; Linux 5.12
PR_SET_DUMPABLE, PR_CAPBSET_DROP = 4, 24

# Left to root inside: what a machine's root needs for its own files, processes and users. Nothing
# that makes mounts or loads code into the kernel. Numbers: linux/capability.h.
KEPT_CAPABILITIES = {
    "chown": 0,
    "dac_override": 1,
    "dac_read_search": 2,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    "ipc_lock": 14,
    "ipc_owner": 15,
    "sys_chroot": 18,
    "sys_ptrace": 19,
    "sys_nice": 23,
    "sys_resource": 24,
    "setfcap": 31,
}

# What holds the metadata services of EC2 and of containers there; others use 169.254.169.254 too.
# There is no way out by IPv6 at all.
METADATA = ("169.254.0.0", "255.255.0.0")

# Where the new root grows. What the machine has there is not shown inside anyway.
NEW_ROOT = "/tmp"  # noqa: S108 (a place to mount on, in a mount namespace of our own)

OWN_TOP = ("etc", "var", "root", "home", "tmp", "run")
SPECIAL_TOP = (*OWN_TOP, "dev", "proc", "lost+found")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

libc = ctypes.CDLL(None, use_errno=True)


class _Attributes(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns")]


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    done = libc.mount(
        source.encode(),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _check(done, f"mount {source} on {target}")


def _bind(source: str, target: str, *, writable: bool = False) -> None:
    _mount(source, target, flags=MS_BIND | MS_REC)
    if not writable:
        _make_read_only(target)


def _make_read_only(target: str) -> None:
    """Make a mount and all below it read-only; hide what cannot be made so."""
    wanted = _Attributes(set=1)  # MOUNT_ATTR_RDONLY
    done = libc.syscall(
        SYS_MOUNT_SETATTR,
        AT_FDCWD,
        os.fsencode(target),
        AT_RECURSIVE,
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    if done == 0:
        return
    for path, flags in _mounts_below(target):
        try:
            _mount("none", path, flags=MS_REMOUNT | MS_BIND | MS_RDONLY | flags)
        except OSError:
            if path == target:
                raise
            _cover(path)


def _mounts_below(target: str) -> list[tuple[str, int]]:
    """Return the mounts at and below a path with the flags that a remount must keep."""
    known = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC}
    known |= {"noatime": 1024, "nodiratime": 2048, "relatime": 1 << 21}
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            words = line.split()
            path = _unescaped(words[4])
            if path == target or path.startswith(target + "/"):
                options = words[5].decode().split(",")
                found.append((path, sum(known.get(option, 0) for option in options)))
    return found


def _unescaped(word: bytes) -> str:
    """Return a path from mountinfo, where blanks and the like are octal numbers.

    By hand: by now the interpreter may be out of reach, so that no codec can be loaded.
    """
    first, *rest = word.split(b"\\")
    return os.fsdecode(first + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest))


def _cover(path: str) -> None:
    """Hide a folder behind an empty one, a file behind an empty file."""
    if os.path.isdir(path):
        _mount("none", path, "tmpfs", MS_NOSUID | MS_NODEV, "size=4k,mode=755")
    else:
        _mount(NEW_ROOT + "/dev/null", path, flags=MS_BIND)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _map_users(process: int, plan: dict[str, Any]) -> None:
    """Say which users of the machine stand behind the users of the instance."""
    if plan["gid_count"] == 1:
        _write(f"/proc/{process}/setgroups", "deny")
    _write(f"/proc/{process}/uid_map", f"0 {plan['uid']} {plan['uid_count']}")
    _write(f"/proc/{process}/gid_map", f"0 {plan['gid']} {plan['gid_count']}")


def _enter_user_namespace(plan: dict[str, Any]) -> None:
    """Unshare users; the mapping is written by a process that stayed outside."""
    me = os.getpid()
    go_read, go_write = os.pipe()
    mapper = os.fork()
    if mapper == 0:
        os.close(go_write)
        os.read(go_read, 1)
        try:
            _map_users(me, plan)
        except OSError as error:
            _give_up(error)
        os._exit(0)
    _check(libc.unshare(CLONE_NEWUSER), "unshare users")
    os.write(go_write, b"x")
    os.close(go_write)
    os.close(go_read)
    if os.waitpid(mapper, 0)[1] != 0:
        os._exit(1)


def _open_sources(plan: dict[str, Any]) -> dict[str, str]:
    """Open what belongs to the instance while still allowed to look into the state folder."""
    found = {}
    for name, path in plan["sources"].items():
        found[name] = os.open(path, os.O_PATH | os.O_CLOEXEC)
    folder = os.open(plan["folder"], os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY)
    for name in plan["own"]:
        flags = os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW
        flags |= os.O_DIRECTORY if name in OWN_TOP else 0
        found[name] = os.open(name, flags, dir_fd=folder)
    return {name: f"/proc/self/fd/{descriptor}" for name, descriptor in found.items()}


def _become_root_inside() -> None:
    # Without a range of ids there is nothing to switch, and setgroups is denied.
    if os.getgid() != 0 or os.getuid() != 0:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)


def _make_network(port: int) -> None:
    """Make a network with a loopback on which the daemon listens; the way out comes later."""
    _check(libc.unshare(CLONE_NEWNET), "unshare the network")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as configuring:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack("16sh22x", fcntl.ioctl(configuring, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(configuring, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
        places = (_address(METADATA[0]), _address("0.0.0.0"), _address(METADATA[1]))  # noqa: S104
        # struct rtentry: pad, destination, gateway, mask, flags, and what stays 0.
        route = struct.pack("L16s16s16sH62x", 0, *places, RTF_UP | RTF_REJECT)
        fcntl.ioctl(configuring, SIOCADDRT, route)
    with (
        socket.create_server(("127.0.0.1", port)) as listening,
        socket.socket(fileno=os.dup(1)) as host,
    ):
        socket.send_fds(host, [b"listening\n"], [listening.fileno()])


def _address(text: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(text))


def _build(plan: dict[str, Any], opened: dict[str, str]) -> None:
    _mount("none", "/", flags=MS_REC | MS_PRIVATE)
    _mount("root", NEW_ROOT, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=755")
    _show_machine(plan["machine_etc"])
    _make_devices(plan)
    for name in OWN_TOP:
        os.mkdir(f"{NEW_ROOT}/{name}")
        _bind(opened[name], f"{NEW_ROOT}/{name}", writable=True)
    layers = {_shown_at(path, plan["machine_etc"]): opened.get(path) for path in plan["layers"]}
    for path, source in layers.items():
        _layer(path, source)
    for path in layers:
        # Not before: places to show other layers at had to be made in there.
        if os.path.ismount(NEW_ROOT + path):
            _make_read_only(NEW_ROOT + path)
    if not os.path.isdir(NEW_ROOT + plan["standins"]):
        os.mkdir(NEW_ROOT + plan["standins"])
    _bind(opened["standins"], NEW_ROOT + plan["standins"])
    for path in plan["replaced"]:
        _bind(opened["standin"], NEW_ROOT + path)
    _make_proc(opened["boot_id"])


def _shown_at(path: str, machine_etc: str) -> str:
    """Return where an instance has a path of the machine's."""
    return machine_etc + path.removeprefix("/etc") if path.startswith("/etc/") else path


def _show_machine(machine_etc: str) -> None:
    """Bind every folder of the machine's root read-only, except those an instance has itself."""
    for entry in os.scandir("/"):
        target = f"{NEW_ROOT}/{entry.name}"
        if entry.name == "etc":
            target = NEW_ROOT + machine_etc
        elif entry.name in SPECIAL_TOP or f"/{entry.name}" == NEW_ROOT:
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), target)
        elif entry.is_dir():
            os.mkdir(target)
            try:
                _bind(entry.path, target)
            except OSError:
                if entry.name in {"usr", "etc", "bin", "lib"}:
                    raise
                _hide_failed(target)


def _hide_failed(target: str) -> None:
    try:
        libc.umount2(os.fsencode(target), MNT_DETACH)
    finally:
        _cover(target)


def _layer(path: str, source: str | None) -> None:
    """Hide a path of the machine, or (with a source) show it where its parent is hidden."""
    target = NEW_ROOT + path
    try:
        if source is not None:
            _make_way(path)
            _bind(source, target)
        elif os.path.lexists(target):
            _cover(target)
    except OSError as error:
        # A place that root inside cannot even reach needs no hiding.
        if source is not None or error.errno != errno.EACCES:
            raise


def _make_way(path: str) -> None:
    """Make the folders of a path below the new root, without following a link.

    Some are the instance's own, where its root may have left anything: what is no folder goes.
    """
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(NEW_ROOT, flags)
    for name in path.strip("/").split("/"):
        above = at
        try:
            at = os.open(name, flags, dir_fd=above)
        except FileNotFoundError:
            os.mkdir(name, dir_fd=above)
            at = os.open(name, flags, dir_fd=above)
        except NotADirectoryError:
            os.unlink(name, dir_fd=above)
            os.mkdir(name, dir_fd=above)
            at = os.open(name, flags, dir_fd=above)
        os.close(above)
    os.close(at)


def _make_devices(plan: dict[str, Any]) -> None:
    dev = f"{NEW_ROOT}/dev"
    os.mkdir(dev)
    _mount("dev", dev, "tmpfs", MS_NOSUID, "size=1m,mode=755")
    for name in DEVICES:
        os.close(os.open(f"{dev}/{name}", os.O_WRONLY | os.O_CREAT, 0o666))
        _mount(f"/dev/{name}", f"{dev}/{name}", flags=MS_BIND)
    os.mkdir(f"{dev}/pts")
    group = ",gid=5" if plan["gid_count"] > 1 else ""
    options = f"newinstance,ptmxmode=0666,mode=620{group}"
    _mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    os.mkdir(f"{dev}/shm")
    _mount("shm", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    os.symlink("/proc/self/fd", f"{dev}/fd")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"{dev}/{name}")


def _make_proc(boot_id: str) -> None:
    proc = f"{NEW_ROOT}/proc"
    os.mkdir(proc)
    _mount("proc", proc, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in ("sys", "sysrq-trigger", "irq", "bus"):
        if os.path.lexists(f"{proc}/{name}"):
            _bind(f"{proc}/{name}", f"{proc}/{name}")
    _bind(boot_id, f"{proc}/sys/kernel/random/boot_id")


def _change_root() -> None:
    os.chdir(NEW_ROOT)
    _check(libc.pivot_root(b".", b"."), "pivot_root")
    _check(libc.umount2(b".", MNT_DETACH), "detach the old root")
    os.chdir("/")
    _make_top_read_only()


def _lock_mounts(plan: dict[str, Any]) -> None:
    """Move into a second, inner user namespace, with the same users.

    A mount that was made by an outer one cannot be undone from there, whatever the rights: of a
    script inside, or those that one would gain from a process that is just entering.
    """
    # Switching users made our files in /proc the machine's root's, so that no mapper could write.
    libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    _enter_user_namespace({**plan, "uid": 0, "gid": 0})
    _check(libc.unshare(CLONE_NEWNS), "unshare mounts again")


def _make_top_read_only() -> None:
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV
    _mount("none", "/", flags=flags)


def _drop_capabilities() -> None:
    for number in range(64):
        if number not in KEPT_CAPABILITIES.values():
            # Numbers beyond what this kernel knows are refused: there is nothing to drop.
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def _wait_for_end(first: int = 0) -> NoReturn:
    """Become a tiny process that ends when the host closes its end of standard input.

    The keeper then kills the `first` process, which root inside can keep from ending by itself.
    """
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.closerange(3, 64)
    # Ignored, the kernel collects ended children by itself, adopted ones too.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL if first else signal.SIG_IGN)
    if first:
        words = ["sh", "-c", 'read -r _; kill -9 "$1"', "-", str(first)]
        os.execve("/bin/sh", words, {})  # noqa: S606 (a fixed program)
    os.execve("/bin/cat", ["cat"], {})  # noqa: S606 (a fixed program)


def _be_first_process(plan: dict[str, Any]) -> NoReturn:
    try:
        _check(libc.unshare(CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC), "unshare mounts")
        if plan["own_network"]:
            _make_network(plan["port"])
        opened = _open_sources(plan)
        _become_root_inside()
        os.umask(0o022)
        _build(plan, opened)
        name = plan["hostname"].encode()
        _check(libc.sethostname(name, len(name)), "sethostname")
        _change_root()
        _lock_mounts(plan)
        _drop_capabilities()
    except OSError as error:
        _give_up(error)
    os.write(1, b"ready\n")
    _wait_for_end()


def _give_up(error: OSError) -> NoReturn:
    os.write(1, f"error: {error}\n".encode())
    os._exit(1)


def main() -> None:
    """Follow the plan given as the only argument (JSON)."""
    plan = json.loads(sys.argv[1])
    try:
        os.setsid()
        _enter_user_namespace(plan)
        _check(libc.unshare(CLONE_NEWPID), "unshare processes")
        first = os.fork()
    except OSError as error:
        _give_up(error)
    if first == 0:
        _be_first_process(plan)
    os.write(1, f"pid {first}\n".encode())
    # Only who is the same user may kill the first process.
    _become_root_inside()
    _wait_for_end(first)


if __name__ == "__main__":
    main()
