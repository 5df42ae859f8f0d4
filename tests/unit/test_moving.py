"""Moves lose no task and double none, whatever becomes of the orders that they take."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from poormanray.jobs.moving import EVERY_S, SILENT_S, Mover, Turns
from poormanray.jobs.track import Track
from poormanray.ledger import TaskState, TaskStatus
from tests.support.tracks import outcomes_of
from tests.support.worlds import EXAMPLES, SHARES, STEPS, World, dealt, world


def test_what_moves_stays_in_the_order_in_which_it_was_asked_for() -> None:
    some = world([list(range(20)), [20]], fails=frozenset())
    for instance in some.instances.values():
        instance.work()
    some.look()
    for _ in range(2):
        some.move("done")
    own, *brought = some.instances["i-1"].queue
    assert own == (20, 1)
    assert len(brought) > 2
    assert brought == sorted(brought)


@settings(max_examples=EXAMPLES)
@given(SHARES, STEPS)
def test_no_task_is_lost_or_doubled(sizes: list[int], steps: list[tuple[str, list[int]]]) -> None:
    played = world(dealt(sizes), fails=frozenset())
    names = list(played.instances)
    for fate, workers in steps:
        for worker in workers:
            played.instances[names[worker % len(names)]].work()
        played.move(fate)
    played.end(200)
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert ran == {(task, 1): 1 for task in range(sum(sizes))}


@settings(max_examples=EXAMPLES)
@given(SHARES, STEPS, st.sets(st.integers(0, 11)), st.integers(0, 3))
def test_what_fails_has_its_turns_and_no_more(
    sizes: list[int], steps: list[tuple[str, list[int]]], bad: set[int], retries: int
) -> None:
    fails = frozenset((task, attempt) for task in bad for attempt in range(1, 3))
    played = world(dealt(sizes), retries=retries, fails=fails)
    names = list(played.instances)
    for fate, workers in steps:
        for worker in workers:
            played.instances[names[worker % len(names)]].work()
        played.move(fate)
    played.end(400)
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    tasks = range(sum(sizes))
    turns = {task: min(3, 1 + retries) if task in bad else 1 for task in tasks}
    assert ran == {(task, attempt): 1 for task in tasks for attempt in range(1, turns[task] + 1)}


@settings(max_examples=EXAMPLES)
@given(SHARES.filter(lambda sizes: len(sizes) > 1), STEPS, st.integers(0, 25))
def test_what_a_lost_instance_had_runs_elsewhere(
    sizes: list[int], steps: list[tuple[str, list[int]]], dies_at: int
) -> None:
    played = world(dealt(sizes), fails=frozenset())
    names = list(played.instances)
    for number, (fate, workers) in enumerate(steps):
        if number == dies_at:
            played.instances[names[0]].alive = False
        for worker in workers:
            played.instances[names[worker % len(names)]].work()
        played.move(fate)
    played.instances[names[0]].alive = False
    played.end(400)
    lived = [key for name in names[1:] for key in played.instances[name].ran]
    seen = [key for key, status in played.mover.tracks[names[0]].log.tasks.items() if ended(status)]
    assert {task for task, _ in lived + seen} == set(range(sum(sizes)))
    assert max(Counter(lived).values(), default=1) == 1
    assert not {task for task, _ in lived} & {task for task, _ in seen}


@settings(max_examples=EXAMPLES)
@given(SHARES.filter(lambda sizes: len(sizes) > 2), STEPS, st.integers(0, 25))
def test_clients_one_after_another_bring_lost_tasks_to_one_place(
    sizes: list[int], steps: list[tuple[str, list[int]]], changes_at: int
) -> None:
    played = world(dealt(sizes), fails=frozenset())
    names = list(played.instances)
    played.instances[names[0]].alive = False
    for number, (fate, workers) in enumerate(steps):
        played.look()
        # What the client before has sent arrives after this one has looked.
        played.move("late" if number == changes_at else fate)
        if number == changes_at:
            played.another_client()
        for worker in workers:
            played.instances[names[worker % len(names)]].work()
    played.end(400)
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert max(ran.values(), default=1) == 1
    assert {task for task, _ in ran} == set(range(sum(sizes)))


@settings(max_examples=EXAMPLES)
@given(SHARES.filter(lambda sizes: len(sizes) > 1), STEPS, st.integers(0, 25), st.booleans())
def test_what_waits_under_a_spot_notice_runs_elsewhere_and_once(
    sizes: list[int], steps: list[tuple[str, list[int]]], noticed_at: int, dies: bool
) -> None:
    played = world(dealt(sizes), fails=frozenset())
    names = list(played.instances)
    first = played.instances[names[0]]
    for number, (fate, workers) in enumerate(steps):
        if number == noticed_at:
            first.interrupt()
        for worker in workers:
            played.instances[names[worker % len(names)]].work()
        played.move(fate)
    if not first.interrupted:
        first.interrupt()
    before = list(first.ran)
    for _ in range(30):
        played.look()
        played.move("done")
    first.alive = not dies
    played.end(200)
    assert first.ran == before
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert max(ran.values(), default=1) == 1
    # What came to it from everybody else can go nowhere before it is lost.
    stuck = {task for task, _ in first.queue} - {task for task, _ in ran}
    assert {task for task, _ in ran} | stuck == set(range(sum(sizes)))
    assert not (dies and stuck)


def test_an_instance_under_notice_gives_at_once_and_gets_nothing() -> None:
    played = world([list(range(12)), [12, 13, 14], [15, 16]], fails=frozenset({(12, 1)}))
    played.mover = Mover("job", played.mover.tracks, Turns(retries=1))
    played.instances["i-0"].interrupt()
    played.instances["i-1"].work()
    played.look()
    played.move("done")
    log = played.mover.tracks["i-0"].log
    assert (log.open, len(log.given)) == ({}, 12)
    played.end(100)
    assert not played.instances["i-0"].ran
    assert not log.adopted
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert ran == {**{(task, 1): 1 for task in range(17)}, (12, 2): 1}


def test_an_instance_whose_slots_are_held_back_is_slow_and_keeps_what_it_has() -> None:
    played = world([[0, 1, 2], [3, 4, 5]], fails=frozenset())
    held = played.instances["i-0"]
    held.event("J 1.0 runner-started 1 root screen")
    held.event("J 1.0 held load 0")
    played.look()
    assert played.mover.order(EVERY_S) is not None
    played.end(200)
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert ran == {(task, 1): 1 for task in range(6)}


def test_what_a_cancel_found_between_instances_is_cancelled_and_runs_once_when_resumed() -> None:
    played = world([[0, 1, 2], [3]], fails=frozenset())
    played.instances["i-0"].order("0 - 1:2.1 * - -")
    for instance in played.instances.values():
        instance.event("J 1.0 cancelled")
    played.look()
    found = {one.task: one for one in outcomes_of(played.mover.tracks.values())}
    assert found[2].state is TaskState.CANCELLED
    for instance in played.instances.values():
        instance.event("J 2.0 resumed")
    tracks = played.mover.tracks
    played.mover = Mover("job", tracks, Turns(again={(2, 2): "i-0"}))
    played.end(100)
    ran = Counter(key for instance in played.instances.values() for key in instance.ran)
    assert ran == {(0, 1): 1, (1, 1): 1, (3, 1): 1, (2, 2): 1}


def test_a_job_that_goes_on_undoes_only_the_cancel_before_it() -> None:
    played = world([[0, 1], [2]], fails=frozenset())
    first = played.instances["i-0"]
    for key in ((0, 1), (1, 1)):
        first.claim(key)
        first.event(f"E 1.0 {key[0]} {key[1]} - cancelled")
    first.event("J 1.0 cancelled")
    played.look()
    played.mover = Mover("job", played.mover.tracks, Turns(again={(0, 2): "i-0", (1, 2): "i-0"}))
    order = played.mover.order(EVERY_S)
    assert order is not None
    assert order.rows["i-0"].endswith(" resume")
    first.event("J 2.0 resumed")
    first.order(order.rows["i-0"])
    first.event("J 3.0 cancelled")
    played.look()
    order = played.mover.order(2 * EVERY_S)
    assert order is None or not any(row.endswith(" resume") for row in order.rows.values())


def test_who_owes_an_answer_for_long_has_no_part_in_moves() -> None:
    played = world([list(range(30)), [], []], fails=frozenset())
    played.look()
    silent = played.mover.tracks["i-1"]
    silent.looking = True
    played.now_s = silent.heard_at_s + SILENT_S + 1
    for key in ("i-0", "i-2"):
        played.mover.tracks[key].heard_at_s = played.now_s
    order = played.mover.order(played.now_s)
    assert order is not None
    assert set(order.rows) == {"i-0"}
    assert order.rows["i-0"].split()[2].startswith("2:")
    silent.heard_at_s = played.now_s
    order = played.mover.order(played.now_s + EVERY_S)
    assert order is not None
    assert ",1:" in order.rows["i-0"] or order.rows["i-0"].split()[2].startswith("1:")


def test_many_that_failed_on_one_go_to_all_others_at_once() -> None:
    failed = frozenset((task, 1) for task in range(30))
    played = world([list(range(30)), [], [], []], retries=1, fails=failed)
    for _ in range(30):
        played.instances["i-0"].work()
    played.look()
    # Their back-off is over.
    order = played.mover.order(100.0)
    assert order is not None
    gives = order.rows["i-0"].split()[2].split(",")
    counts = {give.partition(":")[0]: len(give.partition(":")[2].split("/")) for give in gives}
    assert counts == {"1": 10, "2": 10, "3": 10}


def ended(status: TaskStatus) -> bool:
    return status.state is TaskState.SUCCEEDED


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "look",
                "order",
                "arrive",
                "arrive",
                "unheard",
                "drop",
                "work",
                "end",
                "read",
                "resume",
            ]
        ),
        st.integers(0, 1),
        st.integers(0, 4),
    ),
    max_size=120,
)


@dataclass
class Duel:
    """Two clients with one job; each step of theirs comes when it is told to, messages too."""

    played: World
    clients: list[Mover]
    most_deaths: int
    messages: list[tuple[Mover, str, str]] = field(default_factory=list)
    deaths: int = 0
    # What each next client has read of instances before it goes on with the job.
    seen: list[dict[str, Track]] = field(default_factory=lambda: [{}, {}])

    def act(self, kind: str, number: int, place: int) -> None:
        client, names = self.clients[number], list(self.played.instances)
        name = names[place % len(names)]
        if kind == "look":
            self.played.look(client)
        elif kind == "order" and not any(sender is client for sender, _, _ in self.messages):
            self.messages += [(client, *row) for row in self.played.sends(client).items()]
        elif kind in ("arrive", "unheard", "drop") and self.messages:
            sender, key, row = self.messages.pop(place % len(self.messages))
            if kind == "drop":
                assert sender.mirrors is not None
                sender.mirrors.answered(key, taken=False)
            else:
                self.played.arrives(sender, key, row, heard=kind == "arrive")
        elif kind == "work":
            self.played.instances[name].work()
        elif kind == "read":
            self.seen[number][name] = self.played.seen(name)
        elif kind == "resume":
            self.clients[number] = self.played.resumed(self.seen[number])
            self.seen[number] = {}
        elif kind == "end" and self.deaths < self.most_deaths:
            self.deaths += self.played.instances[name].alive
            self.played.instances[name].alive = False

    def finish(self) -> None:
        for sender, key, row in self.messages:
            self.played.arrives(sender, key, row)
        for _ in range(300):
            for client in self.clients:
                self.played.look(client)
                for key, row in self.played.sends(client).items():
                    self.played.arrives(client, key, row)
            for instance in self.played.instances.values():
                instance.work()
            if all(self.over(client) for client in self.clients):
                return
        raise AssertionError("it never ends")

    def over(self, client: Mover) -> bool:
        self.played.look(client)
        return client.due_s(self.played.now_s) is None and not any(
            track.log.open for track in client.tracks.values() if not track.gone
        )


def judge(duel: Duel) -> None:
    """Nothing is lost, nothing runs twice on those that are left, nothing known runs again."""
    played = duel.played
    alive = {key for key, one in played.instances.items() if one.alive}
    ran = Counter(task for key in alive for task, _ in played.instances[key].ran)
    assert max(ran.values(), default=1) == 1
    late = played.client()
    kept = {
        task
        for key, track in late.tracks.items()
        if key not in alive
        for task, _ in track.log.tasks
    }
    assert not kept & ran.keys()
    tasks = {task for one in played.instances.values() for task, _ in one.queue}
    if duel.deaths > 1:
        # What proved a move may have ended with two of them.
        return
    for client in (*duel.clients, late):
        found = {one.task: one for one in outcomes_of(client.tracks.values())}
        assert {task for task, one in found.items() if one.state is TaskState.SUCCEEDED} == tasks
        assert {one.host.instance_id for task, one in found.items() if task in ran} <= alive


@settings(max_examples=EXAMPLES, deadline=None)
@given(SHARES.filter(lambda sizes: len(sizes) > 2), ACTIONS, st.integers(1, 2))
def test_two_clients_and_instances_that_end_lose_and_double_nothing(
    sizes: list[int], actions: list[tuple[str, int, int]], deaths: int
) -> None:
    played = world(dealt(sizes), fails=frozenset())
    duel = Duel(played, [played.mover, played.client()], min(deaths, len(sizes) - 1))
    played.look()
    for action in actions:
        duel.act(*action)
    duel.finish()
    judge(duel)
