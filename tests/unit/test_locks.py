"""The lock files are what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement

REPO = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())
RUNS = [
    *PROJECT["project"]["dependencies"],
    *PROJECT["project"]["optional-dependencies"]["local"],
    *PROJECT["dependency-groups"]["build"],
]


def locked(name: str) -> dict[str, str]:
    """Return the version of every package of a lock file."""
    found = re.findall(
        r"^([\w.-]+)(?:\[[^]]*\])?==([^\s;]+)", (REPO / name).read_text(), re.MULTILINE
    )
    return dict(found)


def missing(wanted: Iterable[str], versions: dict[str, str]) -> list[str]:
    requirements = [Requirement(line) for line in wanted]
    return [str(one) for one in requirements if versions.get(one.name, "") not in one.specifier]


def test_everything_wanted_is_locked() -> None:
    assert not missing(RUNS, locked("requirements.lock")), "run scripts/lock"
    dev = PROJECT["dependency-groups"]["dev"]
    assert not missing([*RUNS, *dev], locked("requirements-dev.lock")), "run scripts/lock"


def test_what_is_tested_is_what_runs() -> None:
    assert locked("requirements.lock").items() <= locked("requirements-dev.lock").items()


def test_locks_have_hashes_and_name_no_host() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        text = (REPO / name).read_text()
        assert "://" not in text
        assert len(re.findall(r"== ?\S+.*\\\n    --hash=sha256:", text)) == len(locked(name))
