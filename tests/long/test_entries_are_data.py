"""5,000 entries of any text, in every supported shape of a command and in the refused ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poormanray.templates import command_template
from tests.unit.test_templates import (
    ENTRIES,
    REFUSED,
    SUPPORTED,
    Refused,
    check,
    instead,
    told,
)

BATCH, BATCHES = 40, 125
# Each entry starts the programs that a line names.
FEW = 10
ALL_CHECKS = list(HealthCheck)


@settings(max_examples=BATCHES, suppress_health_check=ALL_CHECKS)
@given(entries=st.lists(ENTRIES, min_size=BATCH, max_size=BATCH))
def _arrive(entries: list[str], folder: Path, seen: list[int]) -> None:
    seen.append(len(entries))
    for shape in SUPPORTED:
        check(shape, entries, folder)


@pytest.mark.timeout(1_500)
def test_entries_arrive_as_they_are_in_every_shape(tmp_path: Path) -> None:
    seen: list[int] = []
    _arrive(folder=tmp_path, seen=seen)
    assert sum(seen) >= BATCH * BATCHES


@pytest.mark.parametrize(
    "refused",
    # What takes numbers only has a test of its own.
    [one for one in REFUSED if one.told is not None and len(one.entries) > 3],
    ids=lambda one: str(one.command),
)
@pytest.mark.timeout(600)
@settings(max_examples=5, suppress_health_check=ALL_CHECKS)
@given(entries=st.lists(ENTRIES, min_size=FEW, max_size=FEW))
def test_the_lines_that_refusals_name_execute_no_entry(
    refused: Refused, entries: list[str], tmp_path: Path
) -> None:
    work, tools = tmp_path / "work", tmp_path / "tools"
    for folder in (work, tools):
        folder.mkdir(exist_ok=True)
    (tools / "ssh").write_text(
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift 2; done\nshift\nexec bash -c "$*"\n'
    )
    (tools / "ssh").chmod(0o755)
    told(command_template(instead(refused), numbers=False), entries, work, f"{tools}:", quiet=False)
