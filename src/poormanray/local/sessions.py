"""Credentials that expire: what the local STS issues, and until when it is good."""

from __future__ import annotations

import secrets
import threading
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus

from poormanray.local.refusals import Answer, Refusal
from poormanray.local.settings import Settings
from poormanray.local.timers import Timers

_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
# Source: STS model: DurationSeconds of each, default and least; the most is the role's to say.
OPERATIONS = {"AssumeRole": 3600, "AssumeRoleWithWebIdentity": 3600, "GetSessionToken": 43_200}
LIFETIME_MIN_S, LIFETIME_MAX_S = 900, 129_600


@dataclass(frozen=True, slots=True)
class Session:
    """One set of temporary credentials; the time is the cloud's clock."""

    access_key: str
    secret_key: str
    token: str
    expires_at_s: float


class Sessions:
    """The temporary credentials of a cloud. Every method may be called from any thread."""

    def __init__(self, timers: Timers, settings: Settings, *, account: str) -> None:
        self._account = account
        self._timers = timers
        self._settings = settings
        self._lock = threading.Lock()
        self._issued: dict[str, Session] = {}

    def find(self, access_key: str) -> Session | None:
        """Return the session of a key, None when there is none."""
        with self._lock:
            return self._issued.get(access_key)

    def expired(self, session: Session) -> bool:
        """Say whether a session is no longer good."""
        return self._timers.now_s() >= session.expires_at_s

    def end_all(self) -> int:
        """Let every session that was issued so far be over; return how many were not."""
        now_s = self._timers.now_s()
        with self._lock:
            living = [one for one in self._issued.values() if one.expires_at_s > now_s]
            for one in living:
                self._issued[one.access_key] = replace(one, expires_at_s=now_s)
        return len(living)

    def answer(self, operation: str, form: Mapping[str, str]) -> Answer:
        """Answer one of OPERATIONS with new credentials.

        Raises:
            Refusal: a lifetime that is none.
        """
        asked = form.get("DurationSeconds", str(OPERATIONS[operation]))
        if not asked.isdecimal() or not LIFETIME_MIN_S <= int(asked) <= LIFETIME_MAX_S:
            text = f"DurationSeconds is {LIFETIME_MIN_S} to {LIFETIME_MAX_S}, not {asked}"
            raise Refusal("ValidationError", text)
        lifetime_s = self._settings.session_lifetime_s or float(asked)
        session = Session(
            f"ASIA{secrets.token_hex(8).upper()}",
            secrets.token_urlsafe(30),
            secrets.token_urlsafe(60),
            self._timers.now_s() + lifetime_s,
        )
        with self._lock:
            self._issued[session.access_key] = session
        return self._document(operation, form, session, lifetime_s)

    def _document(
        self, operation: str, form: Mapping[str, str], session: Session, lifetime_s: float
    ) -> Answer:
        ends_s = self._timers.wall_s() + lifetime_s / self._settings.time_scale
        root = ET.Element(f"{operation}Response", xmlns=_NAMESPACE)
        result = ET.SubElement(root, f"{operation}Result")
        told = ET.SubElement(result, "Credentials")
        for name, value in (
            ("AccessKeyId", session.access_key),
            ("SecretAccessKey", session.secret_key),
            ("SessionToken", session.token),
            ("Expiration", f"{datetime.fromtimestamp(ends_s, UTC):%FT%TZ}"),
        ):
            ET.SubElement(told, name).text = value
        if "RoleSessionName" in form:
            user = ET.SubElement(result, "AssumedRoleUser")
            role, name = form.get("RoleArn", "").rpartition("/")[2], form["RoleSessionName"]
            ET.SubElement(user, "AssumedRoleId").text = f"AROALOCAL:{name}"
            arn = f"arn:aws:sts::{self._account}:assumed-role/{role}/{name}"
            ET.SubElement(user, "Arn").text = arn
        metadata = ET.SubElement(root, "ResponseMetadata")
        ET.SubElement(metadata, "RequestId").text = secrets.token_hex(16)
        return Answer(HTTPStatus.OK, ET.tostring(root), "text/xml")
