"""S3: objects of a bucket that the user names, and addresses that open one of them for minutes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import IO, TYPE_CHECKING, Any, Literal

from poormanray.aws.refusals import translated
from poormanray.waiting import Repeated, at_once

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

Method = Literal["GET", "PUT"]

# How long a presigned URL opens its object; DESIGN: at most 15 minutes.
URL_S = 900
# Source: the S3 API, PutObject: a single PUT takes at most 5 GB.
MOST_OBJECT_BYTES = 5_000_000_000
_BLOCK_BYTES = 1 << 20
# Connections in a row that break before they have brought a byte of an object.
_MOST_BREAKS = 5
_OPERATIONS: dict[Method, str] = {"GET": "get_object", "PUT": "put_object"}


class S3:
    """S3, as far as we use it. Safe to share by threads."""

    def __init__(
        self,
        client_in: Callable[[str], S3Client],
        region: str,
        *,
        repeated: Repeated = at_once,
    ) -> None:
        self._repeated = repeated
        self._client_in = functools.cache(client_in)
        self._region = region
        self._client = self._client_in(region)
        self._regions: dict[str, str] = {}

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object.

        Raises:
            AwsRefused: there is no such bucket, or no right to write there.
        """
        with translated("s3", self._region):
            self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def url(self, method: Method, bucket: str, key: str, *, seconds: int = URL_S) -> str:
        """Return an address that opens one object for one method, at most for URL_S seconds.

        Whoever has it needs no other right: it is a secret for as long as it holds, which ends
        early where the credentials that it is made with end.
        """
        # An address cannot be sent on to another region, as calls are.
        region = self._region_of(bucket)
        with translated("s3", region):
            # No call, but it reads the credentials, whose source may fail for a moment.
            return self._repeated(
                "s3",
                lambda: self._client_in(region).generate_presigned_url(
                    _OPERATIONS[method],
                    Params={"Bucket": bucket, "Key": key},
                    ExpiresIn=min(max(seconds, 1), URL_S),
                    HttpMethod=method,
                ),
            )

    def _region_of(self, bucket: str) -> str:
        """Return the region of a bucket, ours where AWS does not say.

        Source: the S3 API, HeadBucket: its answer says so also where it is a refusal.
        """
        from botocore.exceptions import ClientError

        if bucket not in self._regions:
            with translated("s3", self._region):
                try:
                    told = self._client.head_bucket(Bucket=bucket)
                    headers = told["ResponseMetadata"]["HTTPHeaders"]
                except ClientError as error:
                    headers = error.response["ResponseMetadata"]["HTTPHeaders"]
            self._regions[bucket] = headers.get("x-amz-bucket-region") or self._region
        return self._regions[bucket]

    def copy_to(self, bucket: str, key: str, file: IO[bytes], *, most: int) -> int:
        """Write an object's bytes into a file, at most `most` of them; return how many.

        Where the connection breaks, the rest is read by another one.

        Raises:
            AwsRefused: there is no such object, no right to read it, it has changed meanwhile, or
                the connection breaks without bringing anything.
        """
        from botocore.exceptions import ConnectionError as NotConnected
        from botocore.exceptions import HTTPClientError, IncompleteReadError

        count = breaks = 0
        rest: dict[str, Any] = {}
        with translated("s3", self._region):
            while True:
                answer = self._client.get_object(Bucket=bucket, Key=key, **rest)
                before = count
                try:
                    for block in _blocks(answer["Body"], most - count):
                        file.write(block)
                        count += len(block)
                except (HTTPClientError, NotConnected, IncompleteReadError):
                    breaks = breaks + 1 if count == before else 0
                    if breaks > _MOST_BREAKS:
                        raise
                    # The rest, if it is still the same object.
                    rest = {"Range": f"bytes={count}-", "IfMatch": answer["ETag"]}
                else:
                    return count

    def keys(self, bucket: str, prefix: str) -> list[str]:
        """Return the keys of the bucket that begin with a prefix."""
        pages = self._client.get_paginator("list_objects_v2")
        with translated("s3", self._region):
            return [
                entry.get("Key", "")
                for page in pages.paginate(Bucket=bucket, Prefix=prefix)
                for entry in page.get("Contents", [])
            ]

    def delete(self, bucket: str, key: str) -> None:
        """Delete an object; one that is not there counts as deleted."""
        with translated("s3", self._region):
            self._client.delete_object(Bucket=bucket, Key=key)


def _blocks(body: StreamingBody, most: int) -> Iterator[bytes]:
    """Yield the bytes of an object, at most `most` of them."""
    left = most
    while left > 0 and (block := body.read(min(_BLOCK_BYTES, left))):
        left -= len(block)
        yield block
    body.close()
