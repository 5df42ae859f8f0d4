"""Instances reach the world and their cloud, and no metadata service, whatever leads them out."""

from __future__ import annotations

import http.server
import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from poormanray.local.host import Host
from poormanray.local.network import Way, chosen_ways
from tests.cloud.conftest import Pmr, own_cloud
from tests.support.hosting import ONE, TWO, Guests, guests, is_root

OWN = [Way.SLIRP, Way.PASTA]
# By a socket, as no setting of an SDK keeps that from connecting.
CONNECT = """
import socket, sys
for place in sys.argv[1:]:
    host, _, port = place.rpartition(':')
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        print(place, 'open')
    except OSError as error:
        print(place, 'timed out' if isinstance(error, TimeoutError) else 'refused')
"""
METADATA = ("169.254.169.254:80", "169.254.170.2:80", "169.254.170.23:80", "fd00:ec2::254:80")


def connects(on: Guests, *places: str, instance: str = ONE) -> dict[str, str]:
    words = " ".join(f"'{place}'" for place in places)
    said = on.says(f'python3 -c "{CONNECT}" {words}', on=instance)
    return dict(line.split(" ", 1) for line in said.splitlines())


@pytest.fixture(params=OWN)
def on(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    monkeypatch.setenv("PMR_LOCAL_ISOLATION", "namespaces")
    monkeypatch.setenv("PMR_LOCAL_NETWORK", request.param)
    with tempfile.TemporaryDirectory() as name, guests(Path(name) / "instances") as running:
        assert running.host.network is request.param
        yield running


@pytest.fixture
def service() -> Iterator[int]:
    """Serve HTTP on all of the machine's addresses; return the port."""
    handler = http.server.BaseHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def address_of_the_machine() -> str:
    said = subprocess.check_output(["ip", "-4", "-o", "addr", "show", "scope", "global"], text=True)
    return said.split()[3].partition("/")[0]


def test_metadata_services_are_out_of_reach_and_the_rest_is_not(on: Guests, service: int) -> None:
    outside = f"{address_of_the_machine()}:{service}"
    found = connects(on, *METADATA, outside)
    assert found == {**dict.fromkeys(METADATA, "refused"), outside: "open"}


@pytest.mark.skipif(not is_root(), reason="gives the machine an address")
def test_a_metadata_service_of_the_machine_itself_is_out_of_reach(on: Guests) -> None:
    place = ("169.254.169.254", 80)
    subprocess.run(["ip", "address", "replace", f"{place[0]}/32", "dev", "lo"], check=True)
    handler = http.server.BaseHTTPRequestHandler
    try:
        with http.server.ThreadingHTTPServer(place, handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            assert connects(on, METADATA[0]) == {METADATA[0]: "refused"}
            server.shutdown()
    finally:
        subprocess.run(["ip", "address", "delete", f"{place[0]}/32", "dev", "lo"], check=True)


def test_services_on_loopbacks_of_the_machine_and_of_others_are_out_of_reach(
    on: Guests, service: int
) -> None:
    places = [f"{host}:{service}" for host in ("127.0.0.1", "10.0.2.2", "10.0.2.3")]
    assert "open" not in connects(on, *places).values()
    on.says("python3 -m http.server 8123 >/dev/null 2>&1 & sleep 1", on=TWO)
    assert connects(on, "127.0.0.1:8123") == {"127.0.0.1:8123": "refused"}


def test_names_are_resolved(on: Guests) -> None:
    assert on.says("cat /etc/resolv.conf") == "nameserver 10.0.2.3"
    assert on.says("getent hosts localhost")


def test_what_led_out_ends_with_the_instance_and_with_the_host(on: Guests) -> None:
    def programs() -> set[int]:
        names = ("slirp4netns", "pasta", "passt")
        mine = psutil.Process().children(recursive=True)
        return {one.pid for one in mine if one.name().startswith(names)}

    on.says("true", on=ONE)
    on.says("true", on=TWO)
    assert len(programs()) == 2
    on.host.power_off(ONE)
    assert len(programs()) == 1
    on.host.close()
    assert programs() == set()


def test_nothing_inside_changes_the_network(on: Guests) -> None:
    attack = """
        exec 2>/dev/null
        for ip in /usr/sbin/ip /sbin/ip /bin/ip; do
            $ip route delete unreachable 169.254.0.0/16 && echo route
            $ip link set lo down && echo down
            unshare -Urn $ip link set lo up
        done
        nsenter -t 1 -n true && echo entered
    """
    on.run(attack)
    assert connects(on, METADATA[0]) == {METADATA[0]: "refused"}
    assert "\t0000FEA9\t" in on.says("cat /proc/net/route")


def test_a_machine_without_such_programs_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poormanray.local.network.PATH", str(tmp_path))
    assert list(chosen_ways({})) == [Way.MACHINE]
    with pytest.raises(OSError, match="PMR_LOCAL_NETWORK=x: expected slirp4netns, pasta, machine"):
        next(chosen_ways({"PMR_LOCAL_NETWORK": "x"}))
    monkeypatch.setenv("PMR_LOCAL_NETWORK", "slirp4netns")
    monkeypatch.setenv("PMR_LOCAL_ISOLATION", "namespaces")
    with pytest.raises(OSError, match="slirp4netns is not installed"):
        Host(tmp_path / "instances")


def test_a_program_that_does_not_work_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "slirp4netns"
    fake.write_text("#!/bin/sh\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setattr("poormanray.local.network.PATH", str(tmp_path))
    with guests(tmp_path / "instances") as on:
        assert on.host.network is Way.MACHINE
        assert on.host.network_reason == "slirp4netns ended with exit code 3"
        assert on.says("echo $AWS_EC2_METADATA_DISABLED") == "true"


@pytest.mark.parametrize("way", list(Way))
def test_a_task_finds_its_cloud_and_no_role(way: Way, tmp_path: Path) -> None:
    variables = {
        "PMR_LOCAL_NETWORK": way.value,
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/v2/credentials/x",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "x",
    }
    with own_cloud(tmp_path, env=variables) as pmr:
        assert ("metadata service" in pmr("local", "up").stderr) == (way is Way.MACHINE)
        pmr("create", "-n", "net", "-N", "1")
        check_from_a_task(pmr)


def check_from_a_task(pmr: Pmr) -> None:
    url = pmr.json("local", "status")["url"]
    host, _, port = url.partition("//")[2].rpartition(":")
    script = f'env | grep ^AWS_; python3 -c "{CONNECT}" {host}:{port}'
    said = pmr("run", "-n", "net", "-c", script).stdout
    assert f"{host}:{port} open" in said
    assert "AWS_EC2_METADATA_DISABLED=true" in said
    assert "AWS_CONTAINER" not in said
    if os.access("/dev/net/tun", os.W_OK):
        answer = pmr(
            "run", "-n", "net", "-c", f"curl -sS -o /dev/null -w '%{{http_code}}' {url}/x/y"
        )
        assert "403" in answer.stdout
