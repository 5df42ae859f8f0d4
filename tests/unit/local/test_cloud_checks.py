"""What EC2 refuses where moto is kinder."""

from __future__ import annotations

import pytest

from poormanray.local.cloud_checks import FILTER_VALUES_MAX, check_filters
from poormanray.local.refusals import Refusal


@pytest.mark.parametrize("action", ["DescribeInstances", "DescribeSpotInstanceRequests"])
def test_a_call_has_200_values_of_filters_at_most(action: str) -> None:
    form = {"Filter.1.Name": "instance-id", "Filter.2.Name": "instance-state-name"}
    form |= {f"Filter.1.Value.{n}": f"i-{n}" for n in range(1, FILTER_VALUES_MAX)}
    form["Filter.2.Value.1"] = "running"
    check_filters(action, form)
    with pytest.raises(Refusal) as caught:
        check_filters(action, form | {"Filter.2.Value.2": "stopped"})
    assert caught.value.code == "FilterLimitExceeded"
