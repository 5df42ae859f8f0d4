"""How a map is shown while it runs: what failed, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poormanray.cli.watching import Watcher
from poormanray.jobs.track import Happening, Looked, TaskChanged
from poormanray.ledger import TaskState
from poormanray.model import readable_s

if TYPE_CHECKING:
    from poormanray.waiting import Clock


@dataclass(slots=True)
class Progress:
    """Counts a map's tasks, and tells how far they are."""

    clock: Clock
    total: int
    states: dict[int, TaskState] = field(default_factory=dict)
    began_s: float = 0.0

    def note(self, change: TaskChanged) -> None:
        """Take in that a task started or ended."""
        self.states[change.status.task] = change.status.state
        self.began_s = self.began_s or self.clock.now_s()

    def text(self) -> str:
        """Return one line: done, failed, running, rate, time left."""
        states = list(self.states.values())
        ended = sum(1 for state in states if state.ended)
        failed = sum(1 for state in states if state.ended and state is not TaskState.SUCCEEDED)
        running = states.count(TaskState.RUNNING)
        words = f"{ended}/{self.total} done, {failed} failed, {running} running"
        seconds = (self.clock.now_s() - self.began_s) / self.clock.scale
        if ended and seconds > 1:
            rate = ended / seconds
            words += f", {rate:.1f}/s"
            if ended < self.total:
                words += f", about {readable_s((self.total - ended) / rate)} left"
        return words


@dataclass(slots=True)
class MapWatcher(Watcher):
    """Shows a map: what failed, and how far it is."""

    progress: Progress | None = None

    def show(self, happening: Happening) -> None:
        """Print one thing that happened, and the progress if it has changed."""
        Watcher.show(self, happening)
        if not self.progress:
            return
        if isinstance(happening, TaskChanged):
            self.progress.note(happening)
        elif isinstance(happening, Looked) and self.progress.states and not self.out.json:
            self.out.progress(self.progress.text())

    def finish(self) -> None:
        """Take the progress away."""
        Watcher.finish(self)
        self.out.progress("")
