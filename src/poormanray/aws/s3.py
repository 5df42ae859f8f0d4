"""S3: objects of a bucket that the user names, and addresses that open one of them for minutes."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Literal

from poormanray.aws.refusals import translated

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Method = Literal["GET", "PUT"]

# How long a presigned URL opens its object; DESIGN: at most 15 minutes.
URL_S = 900
# Source: the S3 API, PutObject: a single PUT takes at most 5 GB.
MOST_OBJECT_BYTES = 5_000_000_000
_BLOCK_BYTES = 1 << 20
_OPERATIONS: dict[Method, str] = {"GET": "get_object", "PUT": "put_object"}


class S3:
    """S3, as far as we use it. Safe to share by threads."""

    def __init__(self, client: S3Client, region: str) -> None:
        self._client = client
        self._region = region

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Write an object.

        Raises:
            AwsRefused: there is no such bucket, or no right to write there.
        """
        with translated("s3", self._region):
            self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def url(self, method: Method, bucket: str, key: str, *, seconds: int = URL_S) -> str:
        """Return an address that opens one object for one method, at most for URL_S seconds.

        Whoever has it needs no other right: it is a secret for as long as it holds. It is made
        without asking AWS, and ends early where the credentials that it is made with do.
        """
        with translated("s3", self._region):
            return self._client.generate_presigned_url(
                _OPERATIONS[method],
                Params={"Bucket": bucket, "Key": key},
                ExpiresIn=min(max(seconds, 1), URL_S),
                HttpMethod=method,
            )

    def copy_to(self, bucket: str, key: str, file: IO[bytes], *, most: int) -> int:
        """Write an object's bytes into a file, at most `most` of them; return how many.

        Raises:
            AwsRefused: there is no such object, no right to read it, or the way to it broke.
        """
        count = 0
        with translated("s3", self._region):
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            while count < most and (block := body.read(min(_BLOCK_BYTES, most - count))):
                file.write(block)
                count += len(block)
            body.close()
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
