"""docs/embedded-cloud.md names tests that there are, and settings that there are."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

from poormanray.local.settings import Settings

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs/embedded-cloud.md").read_text()
RULES = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in PAGE.splitlines()
    if re.search(r"\| (yes|no) \|", line)
]
TESTS = {
    name
    for path in (REPO / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE)
}


def test_every_enforced_rule_names_a_test_that_there_is() -> None:
    for statement, enforced, reason in RULES:
        named = re.findall(r"`(test_\w+)`", reason)
        assert enforced == "no" or named, f"{statement}: no test"
        missing = [name for name in named if name not in TESTS]
        assert not missing, f"{statement}: {missing}"


def test_most_rules_are_enforced() -> None:
    enforced = sum(rule[1] == "yes" for rule in RULES)
    assert enforced >= 0.9 * len(RULES)


def test_every_setting_is_told() -> None:
    for field in fields(Settings):
        assert f"`{field.name}`" in PAGE, field.name
