"""A pytest plugin: of what is collected, run only the functions that a file lists.

PMR_TESTS_ONLY names the file: lines such as `tests/unit/test_x.py::test_y`. Test ids can hold
anything, and so cannot stand on a command line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = set(Path(os.environ["PMR_TESTS_ONLY"]).read_text().splitlines())
    kept: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        function = item.nodeid.partition("[")[0]
        (kept if function in chosen else left).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left)
