"""The programs that an instance gets instead of those that would touch the machine itself."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from poormanray.local.folder import Directory

FOLDER = ".standins"
# Instances that have users of their own change them with the machine's programs.
USER_NAMES = (
    *("useradd", "usermod", "userdel", "groupadd", "groupdel", "adduser", "deluser", "addgroup"),
    *("passwd", "chpasswd"),
)
NAMES = (
    *("shutdown", "poweroff", "reboot", "halt", "sudo", "systemctl", "systemd-run"),
    *("dnf", "yum", "apt-get", "apt", "dpkg", "rpm", "zypper", "apk", "pacman", "snap"),
    *("mount", "umount", "swapon", "swapoff", "insmod", "rmmod", "modprobe", "losetup"),
    *("mkfs", "mkfs.ext4", "mkfs.xfs", "mkfs.btrfs", "mkfs.vfat", "fdisk", "parted", "sfdisk"),
    *("iptables", "ip6tables", "nft", "visudo", "crontab", "hostnamectl"),
)

# Called by their full path too, by the agent for one (agent-facts §5, exit code 194).
REPLACED = tuple(
    f"{folder}/{name}"
    for name in ("shutdown", "poweroff", "reboot", "halt", "systemctl")
    for folder in ("/usr/sbin", "/usr/bin")
)


def install(folder: Directory, *, one_user: bool, own_users: bool) -> None:
    """Fill a folder with the stand-ins.

    `one_user`: instances have no user but root; `own_users`: their users are not the machine's.
    """
    # Each is replaced whole: an instance may be using the old one.
    folder.write(NAMES[0], _content("standin.sh"), 0o755)
    for name in NAMES[1:]:
        folder.link(name, NAMES[0])
    for name in USER_NAMES:
        if own_users:
            folder.remove(name)
        else:
            folder.link(name, NAMES[0])
    if one_user:
        folder.write("screen", _content("screen.sh"), 0o755)
    else:
        folder.remove("screen")
    if not os.access("/usr/bin/python3", os.X_OK):
        folder.link("python3", f"{sys.base_prefix}/bin/python3")


def _content(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
