"""The instances that a command about jobs can speak to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poormanray import cluster
from poormanray.errors import NotReached
from poormanray.jobs.cadence import Cadence
from poormanray.jobs.presence import Fate, fate_of
from poormanray.jobs.track import Contact
from poormanray.model import Instance, InstanceState, Selection
from poormanray.remote import CHUNK, Remote

if TYPE_CHECKING:
    from poormanray.aws.session import Aws


@dataclass(frozen=True, slots=True)
class Fleet:
    """A cluster's instances: those that can answer now, and why the others cannot."""

    aws: Aws
    remote: Remote
    cluster: str
    ready: tuple[Instance, ...]
    left_out: tuple[tuple[Instance, str], ...]

    @property
    def ready_ids(self) -> list[str]:
        """Return the ids of the instances that can answer."""
        return [instance.instance_id for instance in self.ready]

    def states(self, instance_ids: Sequence[str]) -> dict[str, tuple[InstanceState, str]]:
        """Ask EC2 by id whether instances still exist: their state, and why they left it.

        By id, because an instance that has lost its tags is still there.
        """
        return {
            one.instance_id: (one.state, one.state_reason)
            for one in self.aws.ec2().by_ids(instance_ids)
        }

    def fates(self, instance_ids: Iterable[str]) -> dict[str, Fate]:
        """Return why instances cannot be asked, and what becomes of their tasks; EC2 is asked once.

        Those that can be asked are left out.
        """
        left_out = {one.instance_id: (one, why) for one, why in self.left_out}
        ready = set(self.ready_ids)
        absent = [key for key in instance_ids if key not in ready]
        strangers = [key for key in absent if key not in left_out]
        states = self.states(strangers) if strangers else {}
        found = {}
        for key in absent:
            if key in left_out:
                instance, why = left_out[key]
                found[key] = Fate(Contact.STOPPED if _resting(instance) else Contact.SILENT, why)
            elif key in states:
                untagged = f"it has lost the tags of cluster {self.cluster}"
                found[key] = fate_of(key, *states[key]) or Fate(Contact.SILENT, untagged)
            else:
                # One answer of EC2's is no proof.
                found[key] = Fate(Contact.SILENT, f"EC2 does not show {key}")
        return found


def _resting(instance: Instance) -> bool:
    return instance.state in (InstanceState.STOPPING, InstanceState.STOPPED)


def muster(
    aws: Aws, selection: Selection, *, on_left_out: Callable[[Instance, str], None] | None = None
) -> Fleet:
    """Find the instances of a selection and see who can answer.

    Raises:
        NotFound: no such cluster or instance.
        NotReached: not one of them can answer; the message says why.
    """
    instances = cluster.find(aws, selection)
    if not Cadence(-(-len(instances) // CHUNK)).few:
        aws.ssm().share_pace()
    seen = cluster.reachable(aws, instances)
    if not seen.ready:
        first, why = seen.left_out[0]
        way = f"pmr wait -n {selection.cluster} waits until they can"
        if all(_resting(one) for one, _ in seen.left_out):
            way = f"pmr resume -n {selection.cluster} starts them again"
        raise NotReached(
            f"no instance of {selection.cluster} can take work: {first.name} is not ready: {why}"
            + (f" (and {len(seen.left_out) - 1} more)" if len(seen.left_out) > 1 else ""),
            f"{way}; pmr list -n {selection.cluster} shows their states",
        )
    if on_left_out:
        for instance, why in seen.left_out:
            on_left_out(instance, why)
    remote = Remote(aws.ssm(), aws.clock)
    names = {one.instance_id: one.name for one in seen.ready}
    remote.on_silence = lambda ids, s: aws.on_silence([names.get(key, key) for key in ids], s)
    return Fleet(aws, remote, selection.cluster, seen.ready, seen.left_out)
