"""Objects of a bucket: written, read, listed, deleted; addresses for one object and one method."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber
from urllib3.exceptions import ReadTimeoutError

from poormanray.aws.s3 import S3, URL_S
from poormanray.aws.session import Aws, Endpoint
from poormanray.errors import AwsRefused, NoAnswer

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PLACE = {"Bucket": "mine", "Key": "poormanray/j/content"}


@pytest.fixture
def client() -> S3Client:
    return boto3.client(
        "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )


@pytest.fixture
def stub(client: S3Client) -> Iterator[Stubber]:
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.fixture
def s3(client: S3Client) -> S3:
    return S3(lambda _region: client, "us-east-1")


def test_an_object_is_written_read_listed_and_deleted(s3: S3, stub: Stubber) -> None:
    stub.add_response("put_object", {}, {**PLACE, "Body": b"data"})
    s3.put("mine", PLACE["Key"], b"data")
    for most, expected in ((100, b"data"), (3, b"dat")):
        body = StreamingBody(io.BytesIO(b"data"), 4)
        stub.add_response("get_object", {"Body": body}, PLACE)
        file = io.BytesIO()
        assert s3.copy_to("mine", PLACE["Key"], file, most=most) == len(expected)
        assert file.getvalue() == expected
    pages = [{"Contents": [{"Key": "a"}], "NextContinuationToken": "t", "IsTruncated": True}, {}]
    for page in pages:
        stub.add_response("list_objects_v2", page)
    assert s3.keys("mine", "a") == ["a"]
    stub.add_response("delete_object", {}, PLACE)
    s3.delete("mine", PLACE["Key"])


class Breaking(io.BytesIO):
    """A connection that breaks after some bytes."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        if not data:
            raise ReadTimeoutError(None, "", "gone")  # type: ignore[arg-type]  # no pool here
        return data


def test_where_the_connection_breaks_the_rest_of_the_same_object_is_read(
    s3: S3, stub: Stubber
) -> None:
    data = bytes(range(200))
    for begin, end in ((0, 70), (70, 150), (150, 200)):
        raw = io.BytesIO(data[begin:end]) if end == len(data) else Breaking(data[begin:end])
        words: dict[str, str] = {**PLACE}
        if begin:
            words |= {"Range": f"bytes={begin}-", "IfMatch": '"tag"'}
        body = StreamingBody(raw, len(data) - begin)
        stub.add_response("get_object", {"Body": body, "ETag": '"tag"'}, words)
    file = io.BytesIO()
    assert s3.copy_to("mine", PLACE["Key"], file, most=1000) == len(data)
    assert file.getvalue() == data


def test_connections_that_break_at_once_are_given_up(s3: S3, stub: Stubber) -> None:
    for _ in range(6):
        body = StreamingBody(Breaking(b""), 9)
        stub.add_response("get_object", {"Body": body, "ETag": '"tag"'})
    with pytest.raises(NoAnswer):
        s3.copy_to("mine", PLACE["Key"], io.BytesIO(), most=1000)


@pytest.mark.parametrize(
    ("operation", "call"),
    [
        ("put_object", lambda s3: s3.put("mine", "key", b"")),
        ("get_object", lambda s3: s3.copy_to("mine", "key", io.BytesIO(), most=1)),
        ("list_objects_v2", lambda s3: s3.keys("mine", "key")),
        ("delete_object", lambda s3: s3.delete("mine", "key")),
    ],
)
def test_refusals_say_what_to_type(
    s3: S3, stub: Stubber, operation: str, call: Callable[[S3], object]
) -> None:
    stub.add_client_error(operation, "NoSuchBucket", "The specified bucket does not exist", 404)
    with pytest.raises(AwsRefused) as caught:
        call(s3)
    assert caught.value.code == "NoSuchBucket"
    assert "aws s3 mb s3://BUCKET" in caught.value.hint
    stub.add_client_error(operation, "AccessDenied", "Access Denied", 403)
    with pytest.raises(AwsRefused) as caught:
        call(s3)
    assert "no permission for s3:" in caught.value.message
    assert "--profile" in caught.value.hint


def headers(region: str) -> Any:  # noqa: ANN401 (what botocore answers)
    return {"ResponseMetadata": {"HTTPHeaders": {"x-amz-bucket-region": region}}}


@pytest.mark.parametrize("refused", [False, True])
@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "mine.s3.us-east-1.amazonaws.com"),
        ("eu-west-3", "mine.s3.eu-west-3.amazonaws.com"),
        ("cn-north-1", "mine.s3.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_an_address_is_of_the_bucket_s_own_region(
    monkeypatch: pytest.MonkeyPatch, region: str, host: str, refused: bool
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    s3 = Aws(region="us-west-2", profile=None, endpoint=None).s3()
    with Stubber(s3._client) as stub:
        if refused:
            stub.add_client_error(
                "head_bucket", "403", response_meta=headers(region)["ResponseMetadata"]
            )
        else:
            stub.add_response("head_bucket", headers(region))
        url = urlsplit(s3.url("GET", "mine", "a/b"))
    s3.url("PUT", "mine", "asked only once")
    words = {name: value for name, (value,) in parse_qs(url.query).items()}
    assert (url.scheme, url.netloc, url.path) == ("https", host, "/a/b")
    assert words["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
    assert words["X-Amz-Credential"].split("/")[2] == region
    assert words["X-Amz-Expires"] == str(URL_S) == "900"
    # Nothing else is signed, so that a plain curl can use it.
    assert words["X-Amz-SignedHeaders"] == "host"


def test_an_address_holds_15_minutes_at_most_and_is_for_one_method() -> None:
    s3 = Aws(region=None, profile=None, endpoint=Endpoint("http://127.0.0.1:9", "k", "s")).s3()
    with Stubber(s3._client) as stub:
        stub.add_response("head_bucket", headers(""))
        url = s3.url("PUT", "mine", "a", seconds=10_000)
    assert url.startswith("http://127.0.0.1:9/mine/a?")
    assert "X-Amz-Expires=900" in url
    assert url.partition("Signature=")[2] != s3.url("GET", "mine", "a").partition("Signature=")[2]
