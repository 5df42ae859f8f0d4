"""Names of buckets and objects, and objects that do not stay."""

from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poormanray.aws.s3 import S3
from poormanray.errors import AwsRefused, UsageProblem
from poormanray.jobs.deposit import Deposit, checked_bucket, object_key
from poormanray.ledger import ID_ALPHABET, ID_LENGTH

JOB = "1ng8md2c5pz"


class Bucket:
    """A bucket that may refuse."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.keys: set[str] = set()
        self.refuses = refuses

    def put(self, _bucket: str, key: str, _data: bytes) -> None:
        self.keys.add(key)
        if self.refuses:
            raise AwsRefused("the answer got lost")

    def delete(self, _bucket: str, key: str) -> None:
        if self.refuses:
            raise AwsRefused("no permission")
        self.keys.discard(key)


@pytest.mark.parametrize("name", ["mine", "s3://mine", "s3://mine/", "a-b.c1"])
def test_a_bucket_s_name(name: str) -> None:
    assert checked_bucket(name) == name.removeprefix("s3://").removesuffix("/")


@pytest.mark.parametrize("name", ["", "a", "Mine", "a_b", "a..b", "-ab", "mine/folder", "x" * 64])
def test_no_bucket_s_name(name: str) -> None:
    with pytest.raises(UsageProblem):
        checked_bucket(name)


@given(st.text(ID_ALPHABET, min_size=ID_LENGTH, max_size=ID_LENGTH), st.text(max_size=8))
def test_keys_lie_in_the_job_s_own_folder(job_id: str, word: str) -> None:
    try:
        key = object_key(job_id, word)
    except ValueError:
        assert not word or not set(word) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    else:
        assert key.split("/") == ["poormanray", job_id, word]


def test_a_job_s_id_is_no_path() -> None:
    with pytest.raises(ValueError, match="no key"):
        object_key("../../../../", "content")


def test_what_was_put_is_deleted_once() -> None:
    bucket = Bucket()
    deposit = Deposit(cast("S3", bucket), "mine", object_key(JOB, "content"))
    assert deposit.remove() == ""
    deposit.put(b"data")
    assert bucket.keys == {f"poormanray/{JOB}/content"}
    assert deposit.remove() == ""
    assert not bucket.keys
    assert not deposit.there


def test_a_write_whose_answer_got_lost_is_deleted_too() -> None:
    bucket = Bucket(refuses=True)
    deposit = Deposit(cast("S3", bucket), "mine", object_key(JOB, "content"))
    with pytest.raises(AwsRefused):
        deposit.put(b"data")
    bucket.refuses = False
    assert deposit.remove() == ""
    assert not bucket.keys


def test_why_it_stays_is_told() -> None:
    deposit = Deposit(cast("S3", Bucket(refuses=True)), "mine", object_key(JOB, "content"), True)
    assert deposit.remove() == "no permission"


def test_a_bucket_that_refused_an_object_does_not_hold_it() -> None:
    class Missing(Bucket):
        def put(self, *_: object) -> None:
            refusal = AwsRefused("there is no such bucket", code="NoSuchBucket")
            refusal.had_no_effect = True
            raise refusal

    deposit = Deposit(cast("S3", Missing(refuses=True)), "mine", object_key(JOB, "content"))
    with pytest.raises(AwsRefused):
        deposit.put(b"data")
    assert not deposit.there
    assert deposit.remove() == ""
