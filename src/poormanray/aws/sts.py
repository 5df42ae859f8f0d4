"""Who the credentials belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poormanray.aws.refusals import translated

if TYPE_CHECKING:
    from mypy_boto3_sts import STSClient


class Sts:
    """The one call of STS that we need."""

    def __init__(self, client: STSClient, region: str) -> None:
        self._client = client
        self._region = region

    def caller(self) -> str:
        """Return the ARN of the identity that signs our calls."""
        with translated("sts", self._region):
            return self._client.get_caller_identity()["Arn"]
