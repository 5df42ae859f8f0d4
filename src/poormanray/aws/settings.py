"""The user's AWS settings (variables, profiles, files), and which of them an error is about."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# Never shown, and never searched for in a message.
_SECRET = ("SECRET", "TOKEN", "KEY", "CREDENTIAL_PROCESS")
_ENDPOINT = re.compile(
    r"AWS_ENDPOINT_URL(_[A-Z0-9_]+)?|AWS_EC2_METADATA_SERVICE_ENDPOINT"
    r"|(.*\.)?endpoint_url|ec2_metadata_service_endpoint"
)
# Files of certificates; botocore takes the first that is set.
_FILES = ("AWS_CA_BUNDLE", "ca_bundle", "REQUESTS_CA_BUNDLE")
_PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY")
_PROXY_SCHEMES = {"http", "https"}
_SHOWN_CHARS = 80
_NAMED = 4
# What botocore calls its ways to credentials, and the settings that lead each of them.
_WAYS: dict[str, tuple[str, ...]] = {
    "env": (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_CREDENTIAL_EXPIRATION",
    ),
    "custom-process": ("credential_process",),
    "assume-role": ("role_arn", "source_profile", "mfa_serial"),
    "assume-role-with-web-identity": (
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_ROLE_ARN",
        "web_identity_token_file",
    ),
    "sso": ("sso_session", "sso_start_url"),
    "login": ("login_session",),
    "container-role": (
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    ),
    "iam-role": ("AWS_METADATA_SERVICE_TIMEOUT", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    "shared-credentials-file": ("aws_access_key_id",),
    "config-file": ("aws_access_key_id",),
}


class SettingError(ValueError):
    """A setting cannot be what it is; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that the user has set; `where` is its profile, "" for an environment variable."""

    name: str
    value: str
    where: str = ""
    convert: Callable[[Any], object] | None = None

    @property
    def secret(self) -> bool:
        """Say whether the value must not be shown."""
        return any(word in self.name.upper() for word in _SECRET) and "FILE" not in self.name

    def __str__(self) -> str:
        """Return its name, its value where that may be shown, and its place."""
        shown = self.value if len(self.value) <= _SHOWN_CHARS else f"{self.value[:_SHOWN_CHARS]}…"
        value = "" if self.secret or "@" in shown else f"={shown!r}"
        return f"{self.name}{value}{self.where and f' of {self.where}'}"

    def wrong(self) -> str:
        """Return why the value cannot be right, "" where nothing shows that."""
        if self.secret:
            return "" if self.value.isascii() and self.value.isprintable() else "is no plain text"
        if _ENDPOINT.fullmatch(self.name):
            return _wrong_url(self.value)
        if self.name in _FILES:
            return _wrong_file(self.value)
        if self.convert is not None:
            try:
                self.convert(self.value)
            except (TypeError, ValueError):
                return "is no whole number"
        return ""

    def in_text(self, text: str) -> bool:
        """Say whether a message quotes the value."""
        value = " ".join(self.value.split())
        if not value or self.secret:
            return False
        return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", " ".join(text.split())) is not None


def all_settings(profile: str | None = None) -> Iterator[Setting]:
    """Yield what is set: AWS's variables, the proxies, and the profile that is in use."""
    from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES as KNOWN

    by_variable: dict[str, Callable[[Any], object] | None] = {}
    by_key: dict[str, Callable[[Any], object] | None] = {}
    for key, variables, _, convert in KNOWN.values():
        if isinstance(key, str):
            by_key[key] = convert
        for one in [variables] if isinstance(variables, str) else variables or []:
            by_variable[one] = convert
    for name, value in os.environ.items():
        if name.startswith("AWS_") or name in _PROXIES or name in _FILES:
            yield Setting(name, value, convert=by_variable.get(name))
    where, values = _profile_values(profile)
    for key, value in values.items():
        yield Setting(key, value, where, by_key.get(key.rpartition(".")[2]))


def _profile_values(profile: str | None) -> tuple[str, Mapping[str, str]]:
    """Return the name of the profile and the file, and what is set there; nested keys have dots."""
    import botocore.session

    session = botocore.session.Session(profile=profile)
    found: dict[str, str] = {}
    place = os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config"
    name = "default"
    # An error of the settings must not hide the one that is to be explained.
    with suppress(Exception):
        name = profile or session.get_config_variable("profile") or "default"
        for key, value in session.get_scoped_config().items():
            if isinstance(value, dict):
                found |= {f"{key}.{inner}": str(one) for inner, one in value.items()}
            else:
                found[key] = str(value)
    return f"profile {name} ({place})", found


def at_fault(text: str, profile: str | None = None, *, way: str = "") -> str:
    """Return the settings that an error with this message is about, in words; "" if none is found.

    `way` is botocore's word for where the credentials come from, for an error of those.
    """
    found = list(all_settings(profile))
    on_way = [one for one in found if one.name in _WAYS.get(way, ())]
    for some in (
        on_way,
        [one for one in found if one.wrong()],
        [one for one in found if one.in_text(text)],
    ):
        if some:
            return ", ".join(map(str, some[:_NAMED]))
    return ""


def check_region(region: str, source: str) -> str:
    """Return a region's name if it can be one.

    Raises:
        SettingError: it cannot.
    """
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", region):
        return region
    raise SettingError(f"{source}={region!r} is no name of a region such as us-east-1")


def check_way(url: str, profile: str | None) -> None:
    """Check what the settings say of the way to an endpoint: its proxy and its certificates.

    Raises:
        SettingError: the way cannot be taken.
    """
    from botocore.utils import get_environ_proxies

    scheme = urlsplit(url).scheme
    proxy = get_environ_proxies(url).get(scheme)
    if proxy and (why := _wrong_proxy(proxy)):
        names = [n for n in (f"{scheme}_proxy", f"{scheme}_proxy".upper()) if os.environ.get(n)]
        raise SettingError(f"the proxy in {names[0] if names else 'the settings'} {why}")
    if scheme == "https":
        found = {one.name: one for one in all_settings(profile) if one.name in _FILES}
        used = next((found[name] for name in _FILES if name in found and found[name].value), None)
        if used and (why := used.wrong()):
            raise SettingError(f"{used} {why}")


def _wrong_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = bool(parts.scheme in _PROXY_SCHEMES and parts.hostname and parts.port != 0)
    except ValueError:
        good = False
    return "" if good and url.isascii() and not re.search(r"\s", url) else "is no URL"


def _wrong_proxy(proxy: str) -> str:
    # botocore takes what names no scheme as http, also socks5://HOST, which it cannot use.
    scheme, found, _ = proxy.partition("://")
    if found and scheme.lower() not in _PROXY_SCHEMES:
        return f"is a {scheme} proxy: only http and https are possible"
    url = proxy if found else f"http://{proxy.removeprefix('//')}"
    return f"{_wrong_url(url)} such as http://HOST:PORT" if _wrong_url(url) else ""


def _wrong_file(name: str) -> str:
    """Return why a file of certificates cannot be used."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=name)
    except ssl.SSLError:
        return "holds no certificates"
    except (OSError, ValueError) as error:
        return f"cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""
