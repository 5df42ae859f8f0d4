"""One session per command, and one client per service: the root of everything AWS."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from poormanray import __version__
from poormanray.aws.refusals import (
    ENCODED,
    ENDED_KEYS,
    check_language,
    code_of,
    fault_of,
    plain_denial,
    supply_fault,
    translated,
)
from poormanray.aws.settings import check_region, check_way
from poormanray.waiting import Clock, Fault, Outages

if TYPE_CHECKING:
    import boto3
    from botocore.client import BaseClient
    from botocore.config import Config
    from mypy_boto3_s3 import S3Client

    from poormanray.aws.credentials import RenewedCredentials
    from poormanray.aws.ec2 import Ec2
    from poormanray.aws.iam import Iam
    from poormanray.aws.s3 import S3
    from poormanray.aws.ssm import Ssm

T = TypeVar("T")
C = TypeVar("C", bound="BaseClient")
FALLBACK_REGION = "us-east-1"
# botocore's standard mode: tries in all, with back-off, of throttled, failed or lost calls. They
# take some 2 s where a call fails at once; then the policy of `waiting.Outages` takes over.
_TRIES = 3
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_SSM_READ_TIMEOUT_S = 20
_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A cloud that is not AWS itself: the local one."""

    url: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    time_scale: float = 1.0


class Aws:
    """The cloud of one command. boto3 is imported on first use; safe to share by threads."""

    def __init__(
        self, *, region: str | None, profile: str | None, endpoint: Endpoint | None
    ) -> None:
        self._wanted_region = region
        self._profile = profile
        self._lock = threading.RLock()
        self.endpoint = endpoint
        self.clock = Clock(scale=endpoint.time_scale if endpoint else 1.0)
        # What shows a person which instances (by name) do not respond, and for how many seconds.
        self.on_silence: Callable[[Sequence[str], float], None] = lambda _names, _seconds: None
        self._credentials: RenewedCredentials | None = None

    @functools.cached_property
    def outages(self) -> Outages:
        """Return what repeats the calls of this command that an outage has failed."""
        return Outages(self.clock)

    @functools.cached_property
    def region(self) -> str:
        """Return the region: as given, else the environment's, the profile's, or us-east-1."""
        if self._wanted_region:
            return self._wanted_region
        if self.endpoint:
            return FALLBACK_REGION
        # boto3 itself reads AWS_DEFAULT_REGION only.
        with translated("aws", "the region of the settings", self._profile):
            if named := os.environ.get("AWS_REGION"):
                return check_region(named, "AWS_REGION")
            return self._session.region_name or FALLBACK_REGION

    @functools.cached_property
    def partition(self) -> str:
        """Return the partition of the region, for ARNs: `aws`, `aws-cn`, `aws-us-gov`, …"""
        from botocore.exceptions import UnknownRegionError

        with translated("aws", self._region_or_word, self._profile):
            try:
                return self._session.get_partition_for_region(self.region)
            except UnknownRegionError:
                return "aws"

    def ec2(self) -> Ec2:
        """Return the one EC2 adapter."""
        with self._lock:
            return self._ec2

    def ssm(self) -> Ssm:
        """Return the one SSM adapter."""
        with self._lock:
            return self._ssm

    def iam(self) -> Iam:
        """Return the one IAM adapter."""
        with self._lock:
            return self._iam

    def s3(self) -> S3:
        """Return the one S3 adapter."""
        with self._lock:
            return self._s3

    @functools.cached_property
    def _ec2(self) -> Ec2:
        from poormanray.aws.ec2 import Ec2
        from poormanray.aws.paced import Paced

        client = self._made(
            "ec2",
            lambda: self._session.client(
                "ec2", region_name=self.region, endpoint_url=self._url, config=self._config
            ),
        )
        Paced(self.clock).attach(client.meta.events, "ec2.DescribeInstances")
        return Ec2(client, self.region)

    @functools.cached_property
    def _ssm(self) -> Ssm:
        from botocore.config import Config

        from poormanray.aws.ssm import Ssm

        # Its answers are small and soon there; one that is lost is to be asked for again soon.
        config = self._config.merge(Config(read_timeout=_SSM_READ_TIMEOUT_S))
        client = self._made(
            "ssm",
            lambda: self._session.client(
                "ssm", region_name=self.region, endpoint_url=self._url, config=config
            ),
        )
        return Ssm(client, self.region, self.clock, repeated=self._repeated)

    @functools.cached_property
    def _iam(self) -> Iam:
        from poormanray.aws.iam import Iam

        client = self._made(
            "iam",
            lambda: self._session.client(
                "iam", region_name=self.region, endpoint_url=self._url, config=self._config
            ),
        )
        return Iam(client, self.region, self.partition)

    @functools.cached_property
    def _s3(self) -> S3:
        from botocore.config import Config

        from poormanray.aws.s3 import S3

        # What is presigned must open the bucket in its own region, without being sent on from
        # there; the local cloud has no name for each bucket. A checksum that boto3 adds by itself
        # would have to be known before the object is.
        own = Config(
            signature_version="s3v4",
            s3={
                "addressing_style": "path" if self.endpoint else "virtual",
                "us_east_1_regional_endpoint": "regional",
            },
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

        def client_in(region: str) -> S3Client:
            return self._made(
                "s3",
                lambda: self._session.client(
                    "s3",
                    region_name=region,
                    endpoint_url=self._url,
                    config=self._config.merge(own),
                ),
            )

        return S3(client_in, self.region, repeated=self._signed)

    def _made(self, service: str, make: Callable[[], C]) -> C:
        """Return a new client: that reads the credentials, whose source may fail for a moment."""
        from poormanray.aws.outlasting import label

        with translated(service, self._region_or_word, self._profile):
            client = self.outages.call(label(service), make, self._judge, proves=False)
            self._check(client)
            return client

    def _signed(self, service: str, sign: Callable[[], T]) -> T:
        """Return what only reads the credentials, whose source may fail for a moment."""
        from poormanray.aws.outlasting import label

        return self.outages.call(label(service), sign, self._judge, proves=False)

    def _repeated(self, service: str, call: Callable[[], T]) -> T:
        """Return what a call brings that must be made anew each time that an outage fails it."""
        from poormanray.aws.outlasting import label

        return self.outages.call(label(service), call, self._judge)

    def _judge(self, error: Exception) -> Fault:
        fault = fault_of(error, self.region)
        if self._credentials is None or fault.why or code_of(error) not in ENDED_KEYS:
            return fault
        # They have ended, and what supplies new ones fails: that may pass.
        return supply_fault(self._credentials.problem)

    def _check(self, client: BaseClient) -> None:
        """Check the way to a client's endpoint, and that what answers there is AWS's language."""
        client.meta.events.register("response-received", check_language)
        client.meta.events.register("response-received.ec2", self._decode_denial)
        if self.endpoint is None:
            check_way(client.meta.endpoint_url, self._profile)

    def _decode_denial(
        self, parsed_response: Mapping[str, dict[str, str]] | None = None, **_: object
    ) -> None:
        """Let STS decode why EC2 denies a call (botocore calls this for each answer).

        EC2 hides action and resource from who may not see them; who may not decode them either
        gets the message as it is.
        """
        error = (parsed_response or {}).get("Error", {})
        found = ENCODED.search(error.get("Message", ""))
        if found is None or "is not authorized to perform" in error["Message"]:
            return
        # What is to be explained must not be hidden by what fails here.
        with suppress(Exception):
            sts = self._session.client(
                "sts", region_name=self.region, endpoint_url=self._url, config=self._config
            )
            decoded = sts.decode_authorization_message(EncodedMessage=found[1])["DecodedMessage"]
            error["Message"] = plain_denial(decoded)

    @property
    def _url(self) -> str | None:
        return self.endpoint.url if self.endpoint else None

    @property
    def _region_or_word(self) -> str:
        return self._wanted_region or "the region of the settings"

    @functools.cached_property
    def _session(self) -> boto3.Session:
        from poormanray.aws.outlasting import Outlasting

        session = self._plain_session()
        Outlasting(self.outages, self._judge).attach(session.events)
        return session

    def _plain_session(self) -> boto3.Session:
        from poormanray.aws.credentials import user_credentials

        with translated("aws", self._region_or_word, self._profile):
            if self.endpoint:
                region = self._wanted_region or FALLBACK_REGION
                return _sealed_session(self.endpoint, region)
            self._credentials = user_credentials(self._profile)
            return _users_session(self._profile, self._credentials)

    @functools.cached_property
    def _config(self) -> Config:
        from botocore.config import Config

        shared = Config(
            retries={"mode": "standard", "total_max_attempts": _TRIES},
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=_READ_TIMEOUT_S,
            max_pool_connections=_CONNECTIONS,
            user_agent_extra=f"poormanray/{__version__}",
        )
        if self.endpoint is None:
            return shared
        return shared.merge(
            Config(proxies={}, use_fips_endpoint=False, use_dualstack_endpoint=False)
        )


def _users_session(profile: str | None, credentials: RenewedCredentials) -> boto3.Session:
    """Return a session of the user's settings, whose clients outlive the credentials of now."""
    import boto3
    import botocore.session

    session = botocore.session.get_session()
    credentials.attach(session)
    return boto3.Session(botocore_session=session, profile_name=profile)


def _sealed_session(endpoint: Endpoint, region: str) -> boto3.Session:
    """Return a session that no environment variable and no settings file has influence on."""
    import boto3
    import botocore.session

    sealed = {
        name: (None, None, default, convert)
        for name, (_, _, default, convert) in botocore.session.Session.SESSION_VARIABLES.items()
    }
    for name in ("config_file", "credentials_file"):
        sealed[name] = (None, None, os.devnull, None)
    return boto3.Session(
        aws_access_key_id=endpoint.access_key,
        aws_secret_access_key=endpoint.secret_key,
        region_name=region,
        botocore_session=botocore.session.Session(session_vars=sealed),
    )
