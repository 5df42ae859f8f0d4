"""The host: instances as folders and process trees on this machine.

It knows nothing of AWS. It boots an instance, runs scripts in it as the agent would, and ends it
with all that it started. Two ways of doing so, tried in this order: Linux namespaces, where the
instance looks like a machine of its own, and plain processes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import resource
import signal
import socket
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Protocol

from poormanray.local import inside, standins
from poormanray.local.executions import Ended, Errand, Execution, Launched, Watcher
from poormanray.local.folder import NOTICE, Directory, InstanceFolder, Owner, link_machine_etc
from poormanray.local.namespaces import (
    STANDINS_AT,
    Nested,
    make_plan,
    owner_behind_root,
)
from poormanray.local.network import PATH, RESOLVER, Way, chosen_ways, trial_of_network
from poormanray.local.processes import Supervised, sweep
from poormanray.local.settings import Settings

__all__ = ["Ended", "Execution", "Host"]

CHOICE = "PMR_LOCAL_ISOLATION"
TRIAL = b"test -w /var/lib/pmr && test ! -w /usr && command -v bash flock setsid setpriv\n"
SHUTDOWN_REQUEST = re.compile(rb"(poweroff|halt|reboot|cancel) ([0-9]{1,9})\n")


class Machine(Protocol):
    """A running instance, whatever it is made of."""

    def launch(self, errand: Errand, outputs: tuple[int, int]) -> Launched:
        """Start a script inside, as root."""

    def limit_disk(self, free: int) -> None:
        """Leave `free` bytes on the instance's disk (-1: no limit); raises OSError."""

    def pids(self) -> list[int]:
        """Return the instance's processes, as this machine numbers them."""

    def end(self) -> None:
        """End every process of the instance and wait until they are gone."""


class _Instance:
    """What the host knows of one instance."""

    def __init__(self, folder: InstanceFolder, facts: Mapping[str, str]) -> None:
        self.folder = folder
        self.facts = dict(facts)
        self.machine: Machine | None = None
        self.control = -1
        self.listening = -1
        self.notice = ""
        self.executions: set[Execution] = set()
        self.halt: threading.Timer | None = None
        self.lock = threading.RLock()


class Host:
    """Runs instances below one folder; every method may be called from any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        settings: Settings | None = None,
        hidden: Iterable[Path] = (),
        port: int = 0,
        on_connection: Callable[[socket.socket], None] = socket.socket.close,
    ) -> None:
        """Find out what this machine allows, and remove what an earlier host left in the folder.

        The settings shorten timeouts and delays; `hidden` are places that no instance may see,
        beside the folder and the user's own. Where instances have a network of their own, each
        has `port` of its loopback open (0: some port), and `on_connection` gets what connects.

        Raises:
            OSError: PMR_LOCAL_ISOLATION asks for what this machine does not allow.
        """
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Not the folder itself: plain processes could have put a link in its place.
        self._folder = folder.parent.resolve() / folder.name
        self._hidden = [self._folder, *hidden]
        settings = settings or Settings()
        self._time_scale = settings.time_scale
        self._settle = {"PMR_SETTLE": f"{settings.settle_s * 100 / settings.time_scale:.0f}"}
        self._instances: dict[str, _Instance] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._tell_shutdown: Callable[[str, str], None] = lambda _instance, _kind: None
        with Directory.at(self._folder.parent) as above:
            self._instances_folder = above.make(self._folder.name, 0o700)
        self._standins = self._folder / standins.FOLDER
        _raise_descriptor_limit()
        self._watcher = Watcher()
        self._port = port
        self._on_connection = on_connection
        self.network = Way.MACHINE
        self.network_reason = ""
        self.isolation = "namespaces"
        self.isolation_reason = ""
        self._owner = owner_behind_root()
        self._install_standins(own_users=True)
        link_machine_etc(self._instances_folder)
        self._sweep()
        self._choose()

    def boot(self, instance_id: str, *, facts: Mapping[str, str]) -> None:
        """Start an instance; nothing happens when it is running.

        Raises:
            OSError: the machine does not have what an instance needs (disk, processes).
        """
        instance = self._known(instance_id, facts)
        with instance.lock:
            if instance.machine is None:
                self._boot(instance)

    def power_off(self, instance_id: str) -> None:
        """End every process of an instance and empty its /tmp and /run."""
        with self._lock:
            instance = self._instances.get(instance_id)
        if instance is None:
            return
        with instance.lock:
            if instance.halt is not None:
                instance.halt.cancel()
                instance.halt = None
            machine, instance.machine = instance.machine, None
            if machine is None:
                return
            machine.end()
            # What had stopped itself, and its launcher with it, is not ended by that.
            for execution in list(instance.executions):
                execution.finish_off()
            self._watcher.unwatch(instance.control)
            if instance.listening >= 0:
                self._watcher.unwatch(instance.listening)
                instance.listening = -1
            instance.folder.empty()

    def destroy(self, instance_id: str) -> None:
        """End every process of an instance and remove its folder."""
        self.power_off(instance_id)
        with self._lock:
            instance = self._instances.pop(instance_id, None)
        if instance is not None:
            with instance.lock:
                instance.folder.remove()

    def running(self, instance_id: str) -> bool:
        """Tell whether an instance is running."""
        with self._lock:
            instance = self._instances.get(instance_id)
        return instance is not None and instance.machine is not None

    def execute(
        self,
        instance_id: str,
        *,
        command_id: str,
        script: bytes,
        working_directory: str,
        timeout_s: float,
        on_end: Callable[[Ended], None],
    ) -> Execution:
        """Run a script on an instance as the agent does; `on_end` is called from another thread.

        `timeout_s` is in seconds of the cloud's time.

        Raises:
            OSError: the instance is not running, or the machine cannot start the script.
        """
        with self._lock:
            instance = self._instances.get(instance_id)
        if instance is None:
            raise OSError(f"no instance {instance_id}")
        with instance.lock:
            machine = instance.machine
            if machine is None:
                raise OSError(f"{instance_id} is not running")
            path = instance.folder.write_script(command_id, script)
            environment = _environment(instance, command_id) | self._settle
            folder = working_directory if working_directory[:1] == "/" else "/usr/bin"
            execution = _launch(instance, machine, Errand(path, folder, environment), on_end)
        self._watcher.follow(execution, timeout_s / self._time_scale)
        return execution

    def on_shutdown(self, callback: Callable[[str, str], None]) -> None:
        """Call back when something in an instance halts it: its id, and how."""
        self._tell_shutdown = callback

    def end_jobs(self, instance_id: str) -> int:
        """End the jobs' processes of an instance (SIGTERM) as systemd does first; return how many.

        Source: agent-facts, last section (measured): the jobs' scopes end at once, the script that
        the agent runs lives on for a while.
        """

        def members() -> list[int]:
            return inside.of_jobs(self._pids(instance_id))

        return inside.signal_all(members(), signal.SIGTERM, members)

    def freeze(self, instance_id: str) -> int:
        """Stop every process of an instance (SIGSTOP); return how many there are."""
        return inside.stop_all(lambda: self._pids(instance_id))

    def thaw(self, instance_id: str) -> int:
        """Let the processes of an instance go on; return how many there are."""
        pids = self._pids(instance_id)
        return inside.signal_all(pids, signal.SIGCONT, lambda: self._pids(instance_id))

    def kill_runners(self, instance_id: str, *, screens: bool) -> int:
        """Kill (SIGKILL) the job runners in an instance, or their screens; return how many."""
        kind = inside.screens if screens else inside.runners

        def members() -> list[int]:
            return kind(self._pids(instance_id))

        return inside.signal_all(members(), signal.SIGKILL, members)

    def limit_disk(self, instance_id: str, free: int) -> None:
        """Leave `free` bytes on the disk that jobs are kept on (-1: no limit).

        Raises:
            OSError: job runners are at work there, or the machine does not allow it.
        """
        with self._lock:
            instance = self._instances.get(instance_id)
        if instance is None:
            raise OSError(f"no instance {instance_id}")
        if inside.runners(self._pids(instance_id)):
            raise OSError(f"jobs run on {instance_id}: their disk cannot be changed under them")
        with instance.lock:
            if instance.machine is None:
                raise OSError(f"{instance_id} is not running")
            instance.machine.limit_disk(free)

    def notify(self, instance_id: str, notice: str) -> None:
        """Tell an instance what EC2 says of its end, until that has come.

        Raises:
            OSError: its disk is full.
        """
        with self._lock:
            instance = self._instances.get(instance_id)
        if instance is not None and not instance.notice:
            with instance.lock:
                instance.notice = notice
                if instance.machine is not None:
                    instance.folder.write_notice(notice)

    def _pids(self, instance_id: str) -> list[int]:
        with self._lock:
            instance = self._instances.get(instance_id)
        if instance is None:
            return []
        with instance.lock:
            return instance.machine.pids() if instance.machine is not None else []

    def close(self) -> None:
        """End every instance. Their folders stay. The host is of no use afterwards."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            instances = list(self._instances)
        for instance_id in instances:
            self.power_off(instance_id)
        self._watcher.close()
        self._instances_folder.close()

    def _known(self, instance_id: str, facts: Mapping[str, str]) -> _Instance:
        with self._lock:
            if instance_id not in self._instances:
                path = self._folder / instance_id
                nested = self.isolation == "namespaces"
                folder = InstanceFolder(self._instances_folder, path, self._owner, own_etc=nested)
                self._instances[instance_id] = _Instance(folder, facts)
            return self._instances[instance_id]

    def _boot(self, instance: _Instance) -> None:
        folder = instance.folder
        folder.create(_hostname(folder.instance_id))
        # Open both ways: it never reports an end, and a writer inside never blocks.
        resolver = "" if self.network is Way.MACHINE else RESOLVER
        instance.control = folder.prepare_boot(resolver)
        try:
            if instance.notice:
                folder.write_notice(instance.notice)
            instance.machine = self._make_machine(instance)
        except OSError:
            os.close(instance.control)
            raise
        descriptor = instance.control
        self._watcher.watch(descriptor, lambda: self._read_control(instance, descriptor))

    def _make_machine(self, instance: _Instance) -> Machine:
        folder = instance.folder
        if self.isolation == "processes":
            supervised = Supervised(folder, self._standins)
            supervised.boot()
            return supervised
        nested = Nested(folder, self.network)
        plan = make_plan(folder, self._standins, self._hidden, _hostname(folder.instance_id))
        network = {"own_network": self.network is not Way.MACHINE, "port": self._port}
        nested.boot({**plan, **network})
        if nested.listening is not None:
            self._serve(instance, nested.listening)
        return nested

    def _serve(self, instance: _Instance, listening: socket.socket) -> None:
        """Take connections from inside an instance until it ends."""
        listening.setblocking(False)  # noqa: FBT003 (the standard library's)
        descriptor = instance.listening = listening.detach()

        def accept() -> None:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as server:
                self._on_connection(server.accept()[0])

        self._watcher.watch(descriptor, accept)

    def _read_control(self, instance: _Instance, descriptor: int) -> None:
        with contextlib.suppress(BlockingIOError):
            said = os.read(descriptor, 4096)
            for kind, seconds in SHUTDOWN_REQUEST.findall(said):
                self._plan_halt(instance, kind.decode(), int(seconds))

    def _plan_halt(self, instance: _Instance, kind: str, seconds: int) -> None:
        if instance.halt is not None:
            instance.halt.cancel()
            instance.halt = None
        if kind == "cancel":
            return
        tell = self._tell_shutdown
        halt = threading.Timer(
            seconds / self._time_scale, lambda: tell(instance.folder.instance_id, kind)
        )
        halt.daemon = True
        instance.halt = halt
        halt.start()

    def _choose(self) -> None:
        """Try the whole construction once, and fall back to plain processes."""
        wanted = os.environ.get(CHOICE, "")
        if wanted not in {"", "namespaces", "processes"}:
            raise OSError(f"{CHOICE}={wanted}: expected namespaces or processes")
        if wanted != "processes":
            for self.network in chosen_ways(os.environ):
                try:
                    self._try_out()
                except OSError as error:
                    self.isolation_reason = self.isolation_reason or str(error)
                else:
                    self.network_reason, self.isolation_reason = self.isolation_reason, ""
                    return
            if wanted == "namespaces":
                raise OSError(self.isolation_reason)
        self.isolation, self.network = "processes", Way.MACHINE
        self.isolation_reason = self.isolation_reason or f"{CHOICE}=processes"
        self._owner = Owner(os.geteuid(), os.getegid(), 1)
        self._install_standins(own_users=False)

    def _install_standins(self, *, own_users: bool) -> None:
        one_user = own_users and self._owner.count == 1
        with self._instances_folder.make(standins.FOLDER) as folder:
            standins.install(folder, one_user=one_user, own_users=own_users)

    def _try_out(self) -> None:
        trial = f"i-{uuid.uuid4().hex[:17]}"
        endings: queue.SimpleQueue[Ended] = queue.SimpleQueue()
        try:
            self.boot(trial, facts={})
            self.execute(
                trial,
                command_id="trial",
                script=TRIAL + trial_of_network(self.network, self._port),
                working_directory="/usr/bin",
                timeout_s=60.0 * self._time_scale,
                on_end=endings.put,
            )
            ended = endings.get()
        finally:
            self.destroy(trial)
        if ended.exit_code != 0:
            said = ended.stderr.decode(errors="replace").strip()
            raise OSError(f"a trial instance does not work: {said or ended.exit_code}")

    def _sweep(self) -> None:
        """Remove what a host that was killed has left; its namespaces ended with it."""
        sweep(self._folder)
        for name in self._instances_folder.names():
            if name.startswith("i-"):
                self._instances_folder.remove(name)


def _launch(
    instance: _Instance, machine: Machine, errand: Errand, on_end: Callable[[Ended], None]
) -> Execution:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    try:
        launched = machine.launch(errand, (out_write, err_write))
    except OSError:
        os.close(out_read)
        os.close(err_read)
        raise
    finally:
        os.close(out_write)
        os.close(err_write)

    def ended(how: Ended) -> None:
        instance.executions.discard(execution)
        on_end(how)

    execution = Execution(launched, (out_read, err_read), ended)
    instance.executions.add(execution)
    return execution


def _environment(instance: _Instance, command_id: str) -> dict[str, str]:
    """Return what the agent gives a script, and no HOME, USER, SHELL, TERM (agent-facts §2)."""
    at = "" if Path(STANDINS_AT).is_dir() else "/standins:"
    return {
        "PATH": f"{at}{PATH}",
        "LANG": "C.UTF-8",
        "SSM_COMMAND_ID": command_id,
        "AWS_SSM_INSTANCE_ID": instance.folder.instance_id,
        "AWS_SSM_REGION_NAME": instance.facts.get("region", "us-east-1"),
        "AWS_SSM_PLATFORM_NAME": "Amazon Linux",
        "AWS_SSM_PLATFORM_VERSION": "2023",
        # There is no instance metadata service, also where the machine itself has one.
        "AWS_EC2_METADATA_DISABLED": "true",
        "PMR_IMDS": f"/{NOTICE}",
    }


def _hostname(instance_id: str) -> str:
    """Return a name as EC2 gives: by the private address, here one that the id stands for."""
    number = zlib.crc32(instance_id.encode())
    return f"ip-10-{number >> 16 & 255}-{number >> 8 & 255}-{number & 255}"


def _raise_descriptor_limit() -> None:
    # An instance takes four descriptors, a running script three more.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
