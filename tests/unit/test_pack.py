"""A pack of outputs is the word of a stranger: it writes below its folder, or nowhere."""

from __future__ import annotations

import gzip
import io
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.jobs.pack import PackError, Store, checked_pattern, inner_path

MOST = 1 << 20
steps = st.one_of(
    st.sampled_from([b"", b".", b"..", b"a", b"a b\n", b"\xff", b"-n", b"x" * 256, b"\0"]),
    st.binary(max_size=4),
)
names = st.lists(steps, min_size=1, max_size=5).map(b"/".join)


def record(name: bytes, data: bytes = b"x", *, key: str = "3.1", mode: str = "644") -> bytes:
    """Return one file as shell/outputs.sh packs it."""
    return f"f {key} {mode} {len(name)} {len(data)}\n".encode() + name + data + b".\n"


def taken(folder: Path, *records: bytes, count: int = 0, most: int = MOST) -> list[str]:
    """Write what is in a pack; only task 3's first attempt is wanted."""
    pack = io.BytesIO(gzip.compress(b"".join(records)))
    return Store(folder).take(pack, {"3.1"}, count=count, most=most)


@given(names)
def test_a_path_stays_inside_or_is_none(name: bytes) -> None:
    found = inner_path(name)
    inside = os.path.normpath(b"/top/" + name) == b"/top/" + name and not name.startswith(b"/")
    plain = inside and name not in (b"", b".") and b"\0" not in name and b"x" * 256 not in name
    assert (found is not None) == plain
    if found is not None:
        assert os.fsencode("/".join(found)) == name


@given(st.lists(st.tuples(names, st.binary(max_size=9)), max_size=4))
def test_nothing_is_written_elsewhere(files: list[tuple[bytes, bytes]]) -> None:
    with TemporaryDirectory() as name:
        top = Path(name)
        (top / "outputs").mkdir()
        (top / "outside").write_bytes(b"kept")
        taken(top / "outputs", *(record(*file) for file in files if len(file[0]) > 0))
        assert sorted(path.name for path in top.iterdir()) == ["outputs", "outside"]
        assert (top / "outside").read_bytes() == b"kept"
        assert all(path.name == "3" for path in (top / "outputs").iterdir())


def test_names_bytes_and_modes_arrive(tmp_path: Path) -> None:
    name = "a b\n'c'/ü \udcff".encode("utf-8", "surrogateescape")
    data = bytes(range(256)) * 5000
    assert (
        taken(tmp_path, record(name, data, mode="4755"), record(b"empty", b""), most=2 << 20) == []
    )
    path = tmp_path / "3" / os.fsdecode(name)
    assert path.read_bytes() == data
    assert path.stat().st_mode & 0o7111 == 0o111
    assert (tmp_path / "3/empty").stat().st_mode & 0o7111 == 0


def test_what_lies_there_is_replaced_and_no_link_is_followed(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "file").write_text("mine")
    outputs = tmp_path / "outputs"
    (outputs / "3").mkdir(parents=True)
    (outputs / "3/file").symlink_to(own / "file")
    (outputs / "3/folder").symlink_to(own)
    (outputs / "3/there").mkdir()
    told = taken(outputs, record(b"file", b"new"), record(b"folder/file"), record(b"there"))
    assert (own / "file").read_text() == "mine"
    assert (outputs / "3/file").read_bytes() == b"new"
    assert not (outputs / "3/file").is_symlink()
    assert ["link lies" in told[0], "directory" in told[1]] == [True, True]


def test_other_attempts_are_passed_over_and_what_is_missing_is_told(tmp_path: Path) -> None:
    told = taken(tmp_path, record(b"a", key="3.2"), record(b"b"), record(b"c", key="4.1"), count=5)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("?")] == ["3", "3/b"]
    assert told == ["2 that the tasks' own user cannot read"]


@pytest.mark.parametrize(
    "damaged",
    [
        record(b"a", b"x" * 50)[:-1],
        record(b"a", b"x" * 50)[:-2],
        record(b"a", b"x" * 50)[:-2] + b"?\n",
        b"f 3.1 644 1 1\na",
        b"f 3.1 644 1 99999999999\na",
        b"f 3.1 644 1 -1\na",
        b"f ../3.1 644 1 1\naa",
        b"f 3.1 644 0 1\na",
        b"f 3.1 644 9999 1\n" + b"a" * 9999,
        b"f" * 100,
        record(b"a", b"x" * (MOST + 1)),
        record(b"a", b"x" * MOST) + record(b"b"),
    ],
)
def test_damage_is_an_error_and_leaves_no_part_of_a_file(tmp_path: Path, damaged: bytes) -> None:
    with pytest.raises(PackError):
        taken(tmp_path, damaged)
    for path in (tmp_path / "3").glob("*"):
        assert path.stat().st_size == MOST


def test_a_file_that_changed_while_it_was_packed_is_left_out(tmp_path: Path) -> None:
    changed = record(b"a", b"x" * 50)[:-2] + b"!\n"
    told = taken(tmp_path, changed, record(b"b", b"y"), changed.replace(b"3.1", b"4.1"))
    assert [path.name for path in (tmp_path / "3").iterdir()] == ["b"]
    assert told[0] == "task 3: b'a': it changed while it was read"


def test_a_cut_pack_is_an_error(tmp_path: Path) -> None:
    pack = gzip.compress(record(b"a", os.urandom(5000)))
    for end in (5, 100, len(pack) - 1):
        with pytest.raises(PackError):
            Store(tmp_path).take(io.BytesIO(pack[:end]), {"3.1"}, count=1, most=MOST)
    with pytest.raises(PackError):
        Store(tmp_path).take(io.BytesIO(b"no gzip"), {"3.1"}, count=1, most=MOST)


@pytest.mark.parametrize(
    "pattern", ["/etc/passwd", "../x", "a/../b", "a//b", "", "a\0", "./a", "x/"]
)
def test_patterns_that_lead_elsewhere_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        checked_pattern(pattern)


@pytest.mark.parametrize("pattern", ["**", "*.csv", "a b/[x]*", "-n", "..a"])
def test_patterns_below_the_folder_are_taken(pattern: str) -> None:
    assert checked_pattern(pattern) == pattern
