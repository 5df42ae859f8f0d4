"""A larger fleet costs no more calls than it must; scripts/bench fleet does 50 and 120."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.cloud.conftest import Pmr


def ssm_calls(pmr: Pmr) -> Counter[str]:
    return Counter(pmr.json("local", "status")["calls"]["ssm"])


def test_ten_instances_are_one_send(pmr: Pmr, new_cluster: Callable[[str, int], str]) -> None:
    name = new_cluster("ten", 10)
    before = ssm_calls(pmr)
    told = pmr("run", "-n", name, "--", "hostname")
    calls = ssm_calls(pmr) - before
    assert len(told.stdout.splitlines()) == 10
    assert calls["SendCommand"] == 1
    assert calls["GetCommandInvocation"] == 0
    assert calls.total() <= 8

    before = ssm_calls(pmr)
    pmr("run", "-n", name, "--", "sleep", "4")
    assert (ssm_calls(pmr) - before).total() <= 16


def test_many_clients_share_an_instance(pmr: Pmr, cluster: str) -> None:
    def client(number: int) -> str:
        one = f"{cluster}-000{number % 3}"
        return pmr("run", "-n", cluster, "-i", one, "--no-prefix", "--", "echo", str(number)).stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(client, range(8))) == [f"{number}\n" for number in range(8)]
