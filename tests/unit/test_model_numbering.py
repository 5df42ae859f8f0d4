"""Every instance has a host index of its own, always the same one."""

from __future__ import annotations

import random

from poormanray.model import NO_INDEX, Instance, InstanceState, chunks, numbered

RUNNING = InstanceState.RUNNING


def instance(instance_id: str, index: int = NO_INDEX, **more: object) -> Instance:
    state = more.pop("state", RUNNING)
    assert isinstance(state, InstanceState)
    cluster, token = str(more.pop("cluster", "demo")), str(more.pop("token", ""))
    launch_index = more.pop("launch_index", 0)
    assert isinstance(launch_index, int)
    return Instance(
        instance_id,
        "",
        cluster,
        index,
        state,
        launch_index=launch_index,
        launch_token=token,
    )


def indices(instances: list[Instance]) -> dict[str, int]:
    return {one.instance_id: one.host_index for one in numbered(instances)}


def test_given_indices_stay_and_make_the_name() -> None:
    found = numbered([instance("i-b", 12), instance("i-a", 3)])
    assert [(one.instance_id, one.name) for one in found] == [
        ("i-a", "demo-0003"),
        ("i-b", "demo-0012"),
    ]


def test_instances_without_an_index_follow_in_the_order_of_their_launch() -> None:
    some = [
        instance("i-y", token="t", launch_index=1),
        instance("i-z", token="t", launch_index=0),
        instance("i-a", 5),
    ]
    assert indices(some) == {"i-a": 5, "i-z": 6, "i-y": 7}


def test_the_order_of_the_answer_does_not_matter() -> None:
    some = [instance(f"i-{number}", token="t", launch_index=number % 3) for number in range(9)]
    some += [instance("i-x", 4), instance("i-w", 4)]
    wanted = indices(some)
    assert sorted(wanted.values()) == sorted(set(wanted.values()))
    shuffled = random.Random(1)
    for _ in range(20):
        shuffled.shuffle(some)
        assert indices(some) == wanted


def test_of_two_launches_at_the_same_moment_the_second_moves_up() -> None:
    some = [instance("i-a", 0, token="t1"), instance("i-b", 0, token="t2")]
    assert indices(some) == {"i-a": 0, "i-b": 1}


def test_a_living_instance_keeps_its_index_before_an_ended_one() -> None:
    ended = instance("i-a", 0, state=InstanceState.TERMINATED)
    assert indices([ended, instance("i-b", 0)])["i-b"] == 0


def test_clusters_are_numbered_apart() -> None:
    found = numbered([instance("i-b", cluster="two"), instance("i-a", cluster="one")])
    assert [one.name for one in found] == ["one-0000", "two-0000"]


def test_chunks_keep_everything_in_order() -> None:
    assert [list(some) for some in chunks(range(5), 2)] == [[0, 1], [2, 3], [4]]
    assert list(chunks([], 2)) == []
