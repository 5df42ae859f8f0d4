"""The network of instances: one of their own, whose way out leads to no metadata service.

The machine may be an EC2 instance itself, or one of another cloud: its metadata service gives the
machine's role to whoever asks. So an instance is a network namespace where one of two programs is
installed that give such a namespace a way out without any right: slirp4netns or pasta. There the
addresses of metadata services are unreachable (`nest.py`), and the daemon listens inside.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from threading import Event

CHOICE = "PMR_LOCAL_NETWORK"
# As slirp4netns has them by default: the way out, the instance, and who resolves names.
GATEWAY, ADDRESS, RESOLVER = "10.0.2.2", "10.0.2.100", "10.0.2.3"
DEFAULT = "00000000"  # the destination of a default route in /proc/net/route
START_TIMEOUT_S = 10.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The same for a program that does not watch its standard input.
TIED = 'exec 3<&0; (read -r _ <&3; kill -9 -- -$$) & exec "$@" 3<&- </dev/null'


class Way(StrEnum):
    """How instances reach the world outside."""

    SLIRP = "slirp4netns"
    PASTA = "pasta"
    MACHINE = "machine"  # the network of the machine itself


def chosen_ways(environ: Mapping[str, str]) -> Iterator[Way]:
    """Yield what this machine may allow, the best first; PMR_LOCAL_NETWORK names the only one.

    Raises:
        OSError: it names none.
    """
    wanted = environ.get(CHOICE, "")
    if wanted not in {"", *Way}:
        raise OSError(f"{CHOICE}={wanted}: expected {', '.join(Way)}")
    for way in (Way.SLIRP, Way.PASTA):
        if way == wanted or (not wanted and _program(way) is not None):
            yield way
    if wanted in {"", Way.MACHINE}:
        yield Way.MACHINE


def trial_of_network(way: Way, port: int) -> bytes:
    """Return lines of a script that fail in an instance whose network is not as it must be."""
    if way is Way.MACHINE:
        return b""
    connect = "2>/dev/null timeout 5 bash -c '</dev/tcp/{}/{}'"
    daemon = connect.format("127.0.0.1", port) if port else "true"
    # Refused at once: a time-out would mean that the packets go somewhere.
    metadata = connect.format("169.254.169.254", 80)
    return (
        f"{daemon} || {{ echo 'the cloud cannot be reached from inside' >&2; exit 1; }}\n"
        f"{metadata}\n"
        f"[ $? = 1 ] || {{ echo 'a metadata service can be reached' >&2; exit 1; }}\n"
    ).encode()


def _program(way: Way) -> str | None:
    return shutil.which(way.value, path=PATH)


class Uplink:
    """The way out of one instance: a program outside that its namespace is tied to."""

    def __init__(self, way: Way, *, keeper: int, first: int) -> None:
        """Start it, for the instance with this keeper and first process; see `nest.py`.

        Raises:
            OSError: the program does not start, or does not give the instance a way out.
        """
        users, network = f"/proc/{keeper}/ns/user", f"/proc/{first}/ns/net"
        program = _program(way)
        if program is None:
            raise OSError(f"{way} is not installed")
        if way is Way.SLIRP:
            words = _slirp(program, users, network)
        else:
            words = ["/bin/sh", "-c", TIED, "-", *_pasta(program, users, network)]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": PATH},
            cwd="/",
            process_group=0,
        )
        try:
            self._wait(way, Path(f"/proc/{first}/net/route"))
        except OSError:
            self.end()
            raise

    def _wait(self, way: Way, routes: Path) -> None:
        """Wait until the instance has a default route."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        pause = Event()
        while not any(line.split()[1:2] == [DEFAULT] for line in routes.read_text().splitlines()):
            if self._process.poll() is not None:
                raise OSError(f"{way} ended with exit code {self._process.returncode}")
            if time.monotonic() > deadline_s:
                raise OSError(f"{way} gave the instance no way out in {START_TIMEOUT_S:.0f} s")
            pause.wait(0.01)

    def end(self) -> None:
        """End the program."""
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def _slirp(program: str, users: str, network: str) -> list[str]:
    words = ["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]
    # It ends when standard input closes: that is when the daemon ends, however it does.
    return [program, *words, "--exit-fd=0", f"--userns-path={users}", network, "eth0"]


def _pasta(program: str, users: str, network: str) -> list[str]:
    words = [program, "--foreground", "--quiet", "--config-net", "--ipv4-only", "--no-map-gw"]
    words += ["--address", ADDRESS, "--netmask", "24", "--gateway", GATEWAY]
    words += ["--dns-forward", RESOLVER, "--ns-ifname", "eth0"]
    # Nothing of the machine's loopback, in either direction.
    words += ["-t", "none", "-u", "none", "-T", "none", "-U", "none"]
    # As root it would become another user, who may not enter.
    words += ["--runas", "0:0"] if os.geteuid() == 0 else []
    return [*words, "--userns", users, "--netns", network]
