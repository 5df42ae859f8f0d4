"""Objects in the user's bucket: content on its way to instances, outputs on their way back."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from poormanray.errors import AwsRefused, PmrError, UsageProblem
from poormanray.ledger import is_job_id

if TYPE_CHECKING:
    from poormanray.aws.s3 import S3

# Below it lies all that is ours, so that a rule of the bucket can end what was left behind.
PREFIX = "poormanray"
CONTENT = "content"
# Source: the S3 user guide, "Bucket naming rules".
_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_WORD = re.compile(r"[a-z0-9-]{1,80}")


def checked_bucket(name: str) -> str:
    """Return the name of a bucket, as given or as the host part of `s3://NAME`.

    Raises:
        UsageProblem: no bucket can have such a name.
    """
    bare = name.removeprefix("s3://").removesuffix("/")
    if not _BUCKET.fullmatch(bare):
        raise UsageProblem(
            f"{name!r} is no name of a bucket: small letters, digits, '-' and '.', 3 to 63 of them",
            "give --bucket NAME (or PMR_BUCKET), without a folder",
        )
    return bare


def object_key(job_id: str, word: str) -> str:
    """Return the key of an object of a job: in the job's own folder, below ours."""
    if not is_job_id(job_id) or not _WORD.fullmatch(word):
        raise ValueError(f"no key for {word!r} of job {job_id!r}")
    return f"{PREFIX}/{job_id}/{word}"


@dataclass(slots=True)
class Deposit:
    """One object of a job in a bucket, for as long as instances need it."""

    s3: S3
    bucket: str
    key: str
    there: bool = field(default=False)

    @property
    def name(self) -> str:
        """Return what people call the object."""
        return f"s3://{self.bucket}/{self.key}"

    def put(self, data: bytes) -> None:
        """Write the object.

        Raises:
            AwsRefused: the bucket does not take it.
        """
        # First: a write that seemed to fail, or was interrupted, may have been one.
        self.there = True
        try:
            self.s3.put(self.bucket, self.key, data)
        except AwsRefused as refusal:
            self.there = not refusal.had_no_effect
            raise

    def get_url(self) -> str:
        """Return an address that reads the object, for some minutes."""
        return self.s3.url("GET", self.bucket, self.key)

    def put_url(self) -> str:
        """Return an address that writes the object, for some minutes."""
        self.there = True
        return self.s3.url("PUT", self.bucket, self.key)

    def remove(self) -> str:
        """Delete the object if it may be there; return why that failed, empty if it did not."""
        if not self.there:
            return ""
        self.there = False
        try:
            self.s3.delete(self.bucket, self.key)
        except PmrError as error:
            return error.message
        return ""
