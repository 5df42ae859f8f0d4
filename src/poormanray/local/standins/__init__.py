"""The programs that an instance gets instead of those that would touch the machine itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAMES = (
    *("shutdown", "poweroff", "reboot", "halt", "sudo", "systemctl", "systemd-run"),
    *("dnf", "yum", "apt-get", "apt", "dpkg", "rpm", "zypper", "apk", "pacman", "snap"),
    *("mount", "umount", "swapon", "swapoff", "insmod", "rmmod", "modprobe", "losetup"),
    *("mkfs", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mkfs.vfat", "fdisk", "parted", "sfdisk"),
    *("iptables", "ip6tables", "nft", "useradd", "usermod", "userdel", "groupadd", "groupdel"),
    *("adduser", "deluser", "addgroup", "passwd", "chpasswd", "visudo", "crontab", "hostnamectl"),
)

# Called by their full path too, by the agent for one (agent-facts §5, exit code 194).
REPLACED = tuple(
    f"{folder}/{name}"
    for name in ("shutdown", "poweroff", "reboot", "halt", "systemctl")
    for folder in ("/usr/sbin", "/usr/bin")
)


def install(folder: Path, *, one_user: bool) -> None:
    """Fill a folder with the stand-ins; `one_user`: instances have no user but root."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)
    _write(folder / NAMES[0], "standin.sh")
    for name in NAMES[1:]:
        _link(folder / name, NAMES[0])
    if one_user:
        _write(folder / "screen", "screen.sh")
    else:
        (folder / "screen").unlink(missing_ok=True)
    if not os.access("/usr/bin/python3", os.X_OK):
        _link(folder / "python3", f"{sys.base_prefix}/bin/python3")


def _write(path: Path, name: str) -> None:
    # Written aside and renamed: an instance may be using the old one.
    fresh = path.with_name(f".{path.name}")
    fresh.write_bytes(Path(__file__).with_name(name).read_bytes())
    fresh.chmod(0o755)
    fresh.replace(path)


def _link(path: Path, target: str) -> None:
    fresh = path.with_name(f".{path.name}")
    fresh.symlink_to(target)
    fresh.replace(path)
