"""The daemon: one process that holds a whole cloud and serves it on loopback."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from poormanray.local.cloud_instances import Instances
from poormanray.local.cloud_launch import Launches
from poormanray.local.cloud_moto import ACCOUNT, Moto
from poormanray.local.faults import Faults
from poormanray.local.fleet import InstanceFleet
from poormanray.local.folder import Directory
from poormanray.local.front import Front, Services, StartResponse
from poormanray.local.host import Host
from poormanray.local.http_server import Server
from poormanray.local.orders import Orders
from poormanray.local.refusals import Refusal
from poormanray.local.run_command import RunCommand
from poormanray.local.sessions import Sessions
from poormanray.local.settings import Settings
from poormanray.local.signature import Gate
from poormanray.local.throttle import Throttle
from poormanray.local.timers import WallTimers

LOG = logging.getLogger(__name__)

REGION = "us-east-1"
CONTACT = "cloud.json"
INSTANCES = "instances"


@dataclass(frozen=True, slots=True)
class Contact:
    """How to reach the cloud; `cloud.json` holds it."""

    pid: int
    url: str
    access_key: str
    secret_key: str
    region: str
    time_scale: float
    isolation: str
    isolation_reason: str  # why there are no namespaces
    network: str  # of instances: a program that leads out of a network of their own, or "machine"
    network_reason: str  # why they have none of their own
    started_at_s: float


class Cloud:
    """One empty cloud that can be thrown away and made anew while the server goes on."""

    def __init__(self, folder: Path, settings: Settings, *, port: int) -> None:
        self._folder = folder
        self._settings = settings
        self._started_at_s = time.time()
        self._stop = threading.Event()
        self._resetting = threading.Lock()
        sweep(folder)
        self._moto = Moto()
        self._socket = socket.create_server(("127.0.0.1", port))
        self._port = self._socket.getsockname()[1]
        self._server = Server(self._application, self._socket)
        self._access_key = f"PMRLOCAL{secrets.token_hex(6).upper()}"
        self._secret_key = secrets.token_urlsafe(30)
        self._build()

    def _build(self) -> None:
        settings = self._settings
        self._timers = WallTimers(settings.time_scale)
        self._host = self._new_host()
        self._fleet = InstanceFleet(self._host, self._timers, settings, role_of=self._role_of)
        self._run_command = self._new_run_command()
        self._fleet.on_reply = self._run_command.on_reply
        self._fleet.on_connected = self._run_command.on_connected
        self._instances = Instances(self._moto, self._fleet, self._timers, settings)
        self._host.on_shutdown(self._instances.guest_shutdown)
        launches = Launches(self._moto, self._timers, settings)
        names = frozenset({f"127.0.0.1:{self._port}", f"localhost:{self._port}"})
        sessions = Sessions(self._timers, settings, account=ACCOUNT)
        gate = Gate(self._access_key, self._secret_key, hosts=names, sessions=sessions)
        self._faults = Faults(self._timers.now_s)
        self._orders = Orders(
            self._faults,
            self._timers,
            self._instances,
            self._fleet,
            self._host,
            sessions,
            commands=self._run_command,
            close_port=self._close_port,
        )
        launches.spot.noticed = self._instances.noticed
        services = Services(
            self._moto,
            self._run_command,
            self._instances,
            launches,
            sessions,
            Throttle(self._timers, settings),
        )
        self._front = Front(gate, services, self, self._faults, settings.time_scale)

    def _new_run_command(self) -> RunCommand:
        return RunCommand(
            self._fleet,
            self._timers,
            self._settings,
            account=ACCOUNT,
            tags_of=self._tags_of,
            folder=self._folder,
        )

    def _new_host(self) -> Host:
        return Host(
            self._folder / INSTANCES,
            settings=self._settings,
            hidden=[self._folder],
            port=self._port,
            on_connection=self._server.adopt,
        )

    def contact(self) -> Contact:
        """Return what `cloud.json` says."""
        return Contact(
            pid=os.getpid(),
            url=f"http://127.0.0.1:{self._port}",
            access_key=self._access_key,
            secret_key=self._secret_key,
            region=REGION,
            time_scale=self._settings.time_scale,
            isolation=self._host.isolation,
            isolation_reason=self._host.isolation_reason,
            network=self._host.network.value,
            network_reason=self._host.network_reason,
            started_at_s=self._started_at_s,
        )

    def serve(self) -> None:
        """Answer requests until SIGTERM, SIGINT or the stop route; then end everything."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        serving = threading.Thread(target=self._server.run, name="cloud-server", daemon=True)
        serving.start()
        while not self._stop.wait(3600):
            pass
        LOG.info("stopping")
        self._server.close()
        self._timers.close()
        self._host.close()
        sweep(self._folder)

    def admin(self, method: str, route: str, asked: Mapping[str, Any]) -> Mapping[str, object]:
        """Answer the cloud's own routes.

        Raises:
            Refusal: there is no such route.
        """
        if route.split("/", maxsplit=1)[0] == "faults":
            return self._orders.answer(method, route, asked)
        if (method, route) == ("GET", "status"):
            return self._status()
        if (method, route) == ("POST", "reset"):
            self._reset()
            return {"reset": True}
        if (method, route) == ("POST", "stop"):
            # A moment later, so that this answer still gets out.
            self._timers.after(0.1 * self._settings.time_scale, self._stop.set)
            return {"stopping": True}
        raise Refusal("NotFound", f"no route {method} {route}", status=404)

    def _close_port(self, seconds: float) -> None:
        """Refuse all connections for some seconds, from a moment later on: this answer gets out."""
        self._timers.after(0.1 * self._settings.time_scale, self._server.close_port)
        self._timers.after(0.1 * self._settings.time_scale + seconds, self._open_port)

    def _open_port(self) -> None:
        try:
            listening = socket.create_server(("127.0.0.1", self._port))
        except OSError:
            # A connection from before may still hold the port, or a stranger for a moment.
            self._timers.after(0.1 * self._settings.time_scale, self._open_port)
            return
        self._server.open_port(listening)

    def _application(self, environ: dict[str, object], start: StartResponse) -> Iterable[bytes]:
        return self._front(environ, start)  # `reset` puts another one in its place

    def _role_of(self, instance_id: str) -> str | None:
        return self._instances.role_of(instance_id)

    def _tags_of(self, instance_id: str) -> Mapping[str, str]:
        return self._instances.tags_of(instance_id)

    def _status(self) -> dict[str, object]:
        contact = self.contact()
        agents = self._fleet.states()
        return {
            "url": contact.url,
            "pid": contact.pid,
            "region": contact.region,
            "state_folder": str(self._folder),
            "isolation": contact.isolation,
            "isolation_reason": contact.isolation_reason,
            "network": contact.network,
            "network_reason": contact.network_reason,
            "uptime_s": round(time.time() - self._started_at_s, 3),
            "settings": asdict(self._settings),
            "instances": [
                {"instance_id": name, "state": state, "machine": agents.get(name, "off")}
                for name, state in self._instances.states().items()
            ],
            "run_command": self._run_command.counts(),
            "calls": self._front.counts(),
        }

    def _reset(self) -> None:
        with self._resetting:
            # Without moto's lock: actions that are under way may need it to end.
            self._timers.close()
            self._host.close()
            self._run_command.close()
            sweep(self._folder)
            self._moto.reset()
            self._build()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()


def sweep(folder: Path) -> None:
    """Remove the instances' folders; nothing of a cloud outlives it."""
    try:
        with Directory.at(folder) as state:
            state.remove(INSTANCES)
    except OSError:
        LOG.exception("what instances left in %s cannot be removed", folder)


def write_contact(state: Directory, contact: Contact) -> None:
    """Write `cloud.json` whole, readable by its owner only."""
    state.write(CONTACT, json.dumps(asdict(contact)).encode(), 0o600)
