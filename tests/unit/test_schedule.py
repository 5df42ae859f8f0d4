"""Spreading loses nothing and doubles nothing; ids travel in few words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.schedule import MOST_IDS, decode_ids, encode_ids, spread


@given(st.integers(0, 2000), st.integers(1, 300))
def test_every_task_has_one_host_and_hosts_have_even_shares(tasks: int, hosts: int) -> None:
    shares = spread(range(tasks), hosts)
    assert len(shares) == hosts
    assert sorted(task for share in shares for task in share) == list(range(tasks))
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_neighbours_go_to_different_hosts() -> None:
    assert spread(range(7), 3) == [[0, 3, 6], [1, 4], [2, 5]]


@given(st.lists(st.integers(0, 10**9 - 1), unique=True, max_size=200))
def test_ids_come_back_in_any_order(ids: list[int]) -> None:
    assert decode_ids(encode_ids(ids)) == ids


@given(st.permutations(range(30)))
def test_ids_that_lie_close_come_back_in_any_order(ids: list[int]) -> None:
    assert decode_ids(encode_ids(ids)) == ids


@given(st.integers(2, 100_000), st.integers(1, 500))
def test_a_round_robin_share_is_one_short_run(tasks: int, hosts: int) -> None:
    for share in (spread(range(tasks), hosts)[0], spread(range(tasks), hosts)[-1]):
        assert len(encode_ids(share)) <= 20
        assert "," not in encode_ids(share)


@pytest.mark.parametrize(
    "text", ["x", "-3", "1-5:x", "1-5:0", "1,,2-x", "1_0", "+1", "0-1" + "0" * 30]
)
def test_what_is_no_list_of_ids_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"no number of a job|must not be zero"):
        decode_ids(text)


@pytest.mark.parametrize("text", ["0-999999999", f"0-{MOST_IDS}", f"0-{MOST_IDS - 1},5"])
def test_few_words_cannot_stand_for_endless_ids(text: str) -> None:
    with pytest.raises(ValueError, match="more ids"):
        decode_ids(text)
