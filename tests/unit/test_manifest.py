"""What a job is survives its way to an instance and back, whatever its names are."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.manifest import (
    HelperFile,
    Host,
    Identity,
    Job,
    Rules,
    Task,
    content_digest,
    decode_manifest,
    decode_meta,
    encode_sections,
    identity_of,
    manifest_digest,
    read_identity,
    script_digest,
    section_digest,
    task_key,
    with_hosts,
)
from poormanray.schedule import spread

# What the command line and the file system can hold: no NUL, and bytes that are not UTF-8.
names = st.binary(min_size=1, max_size=20).map(
    lambda data: data.replace(b"\0", b"\n").decode("utf-8", "surrogateescape")
)
HOSTILE = "a\nb='c' \"d\" $e `f` \udcff\udcfe ü 雪 =x"


def job(**changes: object) -> Job:
    plain = Job(
        job_id="0123456789a",
        kind="map",
        cluster="c",
        region="eu-west-1",
        hosts=(Host(0, "i-1", "c-0000", (0, 2)), Host(4, "i-2", "c-0004", (1,))),
        tasks=(Task(0, "a", 0), Task(1, "b", 1), Task(2, "c", 1)),
        scripts=(b"one", b"two"),
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


@given(
    st.dictionaries(
        st.integers(0, 300), st.tuples(st.integers(0, 1), st.booleans()), min_size=1, max_size=60
    )
)
def test_an_array_s_tasks_are_as_if_each_had_its_line(kinds: dict[int, tuple[int, bool]]) -> None:
    tasks = tuple(
        Task(number, str(number) if plain else f"n{number}", script, str(number))
        for number, (script, plain) in kinds.items()
    )
    hosts = tuple(
        Host(index, f"i-{index}", f"c-000{index}", tuple(share))
        for index, share in enumerate(spread([task.number for task in tasks], 2))
    )
    made = job(tasks=tasks, hosts=hosts)
    found = decode_manifest(dict(encode_sections(made))["manifest"], len(tasks))
    assert found.task_names == made.task_names
    assert found.task_keys == {
        task.number: task_key(script_digest(made.scripts[task.script]), task.entry)
        for task in tasks
    }


def test_a_large_array_is_a_short_manifest() -> None:
    tasks = tuple(Task(number, str(number), 0, str(number)) for number in range(100_000))
    made = job(tasks=tasks, hosts=(Host(0, "i-1", "c-0000", tuple(range(100_000))),))
    assert len(dict(encode_sections(made))["manifest"]) < 300


def test_more_tasks_than_a_job_can_have_are_refused() -> None:
    lines = b"".join(b"R %d-%d:1 0\n" % (n * 600_000, n * 600_000 + 599_999) for n in range(2))
    with pytest.raises(ValueError, match="more tasks"):
        decode_manifest(lines, 1_200_000)


@given(
    name=names,
    submitter=names,
    tasks=st.lists(names, min_size=1, max_size=9),
    host=st.from_regex(r"[a-z0-9][A-Za-z0-9._-]{0,99}-[0-9]{4}", fullmatch=True),
)
def test_names_come_back_as_they_were(
    name: str, submitter: str, tasks: list[str], host: str
) -> None:
    hosts = tuple(
        Host(index, f"i-{index}", host, tuple(share))
        for index, share in enumerate(spread(range(len(tasks)), 3))
    )
    made = job(
        name=name,
        submitter=submitter,
        hosts=hosts,
        tasks=tuple(Task(number, task, 0, task) for number, task in enumerate(tasks)),
    )
    sections = dict(encode_sections(made))
    summary = decode_meta(sections["meta"])
    assert (summary.name, summary.submitter) == (name, submitter)
    assert (summary.task_count, summary.host_count) == (len(tasks), 3)
    assert summary.digest == content_digest(made)
    manifest = decode_manifest(sections["manifest"], len(tasks))
    assert manifest.hosts == hosts
    assert manifest.task_names == dict(enumerate(tasks))


def test_empty_names_come_back_empty() -> None:
    summary = decode_meta(dict(encode_sections(job()))["meta"])
    assert (summary.name, summary.submitter, summary.cluster) == ("", "", "c")


def test_the_environment_travels_byte_by_byte() -> None:
    env = dict(encode_sections(job(env={"A": HOSTILE, "B": ""})))["env"]
    assert env == b"A=" + HOSTILE.encode("utf-8", "surrogateescape") + b"\0B=\0"


def test_content_lies_where_the_manifest_says() -> None:
    files = (HelperFile("x/y", b"\0\xff\n", 0o755),)
    sections = dict(encode_sections(job(helper_files=files)))
    found = {}
    for line in sections["manifest"].decode().splitlines():
        match line.split(" "):
            case ["S", number, at, size, digest]:
                assert digest == script_digest(sections["content"][int(at) : int(at) + int(size)])
                found[number] = sections["content"][int(at) : int(at) + int(size)]
            case ["F", at, size, "755", _]:
                found["file"] = sections["content"][int(at) : int(at) + int(size)]
    assert found == {"0": b"one", "1": b"two", "file": b"\0\xff\n"}


@given(
    st.builds(
        Rules,
        retries=st.integers(0, 100),
        max_load=st.sampled_from(["", "0", "150", "100%"]),
        memfree_kib=st.integers(0, 1 << 40),
        timeout_percent=st.integers(0, 999_999),
    )
)
def test_what_an_instance_decides_by_itself_comes_back(rules: Rules) -> None:
    meta = dict(encode_sections(job(rules=rules)))["meta"]
    assert decode_meta(meta).rules == rules
    if rules == Rules():
        # What is off costs nothing.
        assert not {b"retries", b"max_load", b"memfree", b"timeout_percent"} & {
            line.partition(b"=")[0] for line in meta.splitlines()
        }


@pytest.mark.parametrize("seconds", [0, 0.5, 90, 123456.75, 1_080_000, 31_536_000])
def test_a_time_limit_is_written_as_bash_reads_it(seconds: float) -> None:
    meta = dict(encode_sections(job(timeout_s=seconds)))["meta"]
    assert b"e+" not in meta
    assert decode_meta(meta).timeout_s == seconds


def test_the_digest_depends_on_each_part() -> None:
    files = (HelperFile("x", b"1"), HelperFile("y", b"2"))
    jobs = [
        job(),
        job(scripts=(b"one", b"twO")),
        job(scripts=(b"two", b"one")),
        job(tasks=(*job().tasks[:2], Task(2, "c", 0))),
        job(tasks=(*job().tasks[:2], Task(2, "d", 1))),
        job(tasks=(*job().tasks[:2], Task(3, "c", 1))),
        job(tasks=(*job().tasks[:2], Task(2, "c", 1, ""))),
        job(env={"A": "1"}),
        job(env={"A": "2"}),
        job(env={"B": "1"}),
        job(env={"A": "1", "B": "1"}),
        job(helper_files=files),
        job(helper_files=files[:1]),
        job(helper_files=(HelperFile("x", b"1", 0o755), files[1])),
        job(helper_files=(HelperFile("x", b"2"), files[1])),
        job(helper_files=(HelperFile("z", b"1"), files[1])),
    ]
    assert len({content_digest(one) for one in jobs}) == len(jobs)


def test_the_digest_depends_on_how_it_runs() -> None:
    ways: list[dict[str, Any]] = [
        *({"slots": "2"}, {"timeout_s": 5.0}, {"user": "u"}, {"log_cap_bytes": 9}),
        *({"compat": "slurm"}, {"kind": "setup"}, {"cluster": "d"}, {"name": "n"}),
        *({"rules": Rules(retries=1)}, {"rules": Rules(max_load="5")}),
        *({"rules": Rules(memfree_kib=1)}, {"rules": Rules(timeout_percent=200)}),
    ]
    assert len({content_digest(job(**way)) for way in [{}, *ways]}) == len(ways) + 1


def instances(*ids: str, joined: bool = False) -> tuple[Host, ...]:
    return tuple(
        Host(n, key, f"c-{n}", (n,) * (not joined), joined=joined) for n, key in enumerate(ids)
    )


def test_an_identity_is_of_the_first_instances_and_of_no_time() -> None:
    two = job(hosts=instances("i-1", "i-2"), tasks=job().tasks[:2])
    plain = identity_of(encode_sections(two))
    assert read_identity(" ".join(plain.words)) == plain
    late = instances("i-9", joined=True)
    for same in (
        replace(two, submitter="x", created_at=7),
        replace(two, hosts=two.hosts + late),
    ):
        assert identity_of(encode_sections(same)) == plain
    sections = dict(encode_sections(two))
    manifest = with_hosts(sections["manifest"], late)
    assert manifest_digest(manifest) == plain.manifest != section_digest("manifest", manifest)
    assert [one.joined for one in decode_manifest(manifest, 2).hosts] == [False, False, True]
    others = [
        identity_of(encode_sections(replace(two, hosts=instances("i-1", "i-3")))),
        identity_of(encode_sections(replace(two, hosts=instances("i-2", "i-1")))),
        identity_of(encode_sections(replace(two, hosts=instances("i-1")))),
    ]
    assert all(one.content == plain.content and one.manifest != plain.manifest for one in others)
    assert [one.instances == plain.instances for one in others] == [False, True, False]


def test_a_manifest_holds_the_digests_of_the_other_sections() -> None:
    sections = dict(encode_sections(job(env={"A": "1"})))
    found = decode_manifest(sections["manifest"], 3).digests
    assert {name: found[name] for name in ("meta", "env", "content")} == {
        name: section_digest(name, sections[name]) for name in ("meta", "env", "content")
    }


@pytest.mark.parametrize("text", ["", "x", "0" * 66, f"{'0' * 16} {'0' * 16} {'g' * 32}"])
def test_what_is_no_identity_is_empty(text: str) -> None:
    assert read_identity(text) == Identity()


@given(st.lists(st.sampled_from(list(b"HQTSF 019-:,=i\n/Yy0w")), max_size=120).map(bytes))
def test_any_manifest_has_a_digest(data: bytes) -> None:
    assert len(manifest_digest(data)) == 32


def test_the_digest_of_a_run_does_not_depend_on_its_instances() -> None:
    first, second, third = (Task(number, f"c-000{number}", 0) for number in range(3))
    one = job(kind="run", scripts=(b"1",), tasks=(first,))
    two = job(kind="run", scripts=(b"1",), tasks=(second, third))
    other = job(kind="run", scripts=(b"2",), tasks=(first,))
    assert content_digest(one) == content_digest(two) != content_digest(other)


def test_the_digest_does_not_depend_on_who_and_when() -> None:
    changes: list[dict[str, object]] = [
        {"job_id": "zzzzzzzzzzz"},
        {"submitter": "x"},
        {"created_at": 5},
        {"hosts": ()},
        {"env": {"B": "2", "A": "1"}},
    ]
    plain = content_digest(job())
    assert all(content_digest(job(**change)) == plain for change in changes[:-1])
    assert content_digest(job(**changes[-1])) == content_digest(job(env={"A": "1", "B": "2"}))


@given(st.binary(max_size=80))
def test_nonsense_makes_no_meta_fail(data: bytes) -> None:
    decode_meta(data)
    decode_meta(b"name=\xff\xff\ntimeout=nan\ntasks=\xd9\xa3\nhosts=" + b"9" * 5000 + data)


@pytest.mark.parametrize(
    "data",
    [
        b"H 0 i-1 Yy0w x\n",
        b"H x i-1 Yy0w 0\n",
        b"H " + b"9" * 5000 + b" i-1 Yy0w 0\n",
        b"H 0 i-1 Yy0w 0\nQ i-1 0-99999999999\n",
        b"H 0 i-1 Yy0w 0\nQ i-1 0-999999999\n",
        b"H 0 i-1 Yy0w 0\nQ i-1 0-1" + b"0" * 30 + b"\n",
        b"H 0 i-1 Yy0w 0\nQ i-1 x\n",
        b"H 0 i-1 Yy0w 0\nQ i-1 0-5:0\n",
        b"H 0 i-1 Yy0w 0\nQ i-1 0-5\nQ i-1 6-9\n",
        b"H 0 i-1 Yy0w 0\nH 1 i-2 Yy0x 0\nQ i-1 0-5\nQ i-2 5\n",
        b"H 0 i-1 Yy0w\n",
        b"Q i-1 0-5\n",
        b"T 0 0 =\n",
        b"T x 0 = -\n",
        b"T -1 0 = -\n",
        b"H 0 i-1 = 0\n",
        b"H 0 i-1 YwobWzJKCg== 0\n",
        b"H 0 i-1 /w== 0\n",
        b"H 0 ../x Yy0w 0\n",
    ],
)
def test_a_damaged_manifest_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"no number|more ids|must not be zero|twice|impossible"):
        decode_manifest(data, 6)


@pytest.mark.parametrize(
    ("spread_to", "named", "count"),
    [
        (b"0", b"0-1:1", 2),
        (b"0-1:1", b"0", 2),
        (b"0-1:1", b"0", 1),
        (b"0-1:1", b"0-1:1", 3),
        (b"0-1:1", b"0-1:1", 0),
        (b"0,2", b"0-1:1", 2),
        (b"", b"", 0),
    ],
)
def test_tasks_that_are_not_spread_or_not_counted_are_damage(
    spread_to: bytes, named: bytes, count: int
) -> None:
    data = b"H 0 i-1 Yy0w 0\nQ i-1 " + spread_to + b"\nR " + named + b" 0\n"
    with pytest.raises(ValueError, match="their number and their spread"):
        decode_manifest(data, count)


def test_the_sound_part_of_those_is_sound() -> None:
    data = b"H 0 i-1 Yy0w 0\nQ i-1 0-5:5\nR 0-5:5 0\n"
    (host,) = decode_manifest(data, 2).hosts
    assert host == Host(0, "i-1", "c-0", (0, 5))


@given(st.lists(st.sampled_from(list(b"HQTSF 019-:,=i\n/Yy0w")), max_size=120).map(bytes))
def test_no_manifest_fails_otherwise(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_manifest(data, 1)
