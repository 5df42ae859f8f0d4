"""The user's credentials, read anew when AWS says in the middle of a command that they ended."""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, TypeVar

import botocore.session
from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError

from poormanray.aws.refusals import ENDED_KEYS

if TYPE_CHECKING:
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials, ReadOnlyCredentials

T = TypeVar("T")
# Where a request keeps what it was signed with, and that it was repeated.
_SIGNED_WITH = "poormanray.signed_with"
_REPEATED = "poormanray.repeated"


class RenewedCredentials:
    """Credentials that all clients of a command share; a call that finds them ended renews them.

    botocore itself renews only those that tell when they end. A file that a login tool rewrites,
    or a process that tells no end, is read again here. Safe to share by threads. `problem` is why
    they could not be read the last time, "" if they could.
    """

    def __init__(self, load: Callable[[], Credentials | None]) -> None:
        self._load = load
        self._lock = threading.Lock()
        self._loaded: Credentials | None = None
        self._keys: ReadOnlyCredentials | None = None
        self.problem = ""

    def load_credentials(self) -> RenewedCredentials | None:
        """Return itself, or None where the settings name no credentials."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._read()
        return self if self._loaded else None

    def attach(self, session: botocore.session.Session) -> None:
        """Let every client that the session will make use these credentials."""
        session.register_component("credential_provider", self)
        # botocore gives handlers everything by name.
        session.register("before-sign", self._note)  # type: ignore[arg-type]
        session.register("needs-retry", self._again)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        """Return what the credentials of now have under a name that botocore asks for."""
        return getattr(self._loaded, name)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the keys to sign with now (botocore asks for each request)."""
        with self._lock:
            try:
                return self._freeze()
            except (BotoCoreError, ClientError):
                # They renew themselves with others, which may have ended: all is read again.
                if not self._renewed(self._keys):
                    raise
                return self._freeze()

    def _freeze(self) -> ReadOnlyCredentials:
        if self._loaded is None:
            raise TypeError("nothing was loaded")
        loaded = self._loaded
        keys = _explained(loaded.get_frozen_credentials, loaded.method)()
        for key in (keys.access_key, keys.secret_key, keys.token or "-"):
            # A helper may print anything: what is no text would fail only when it signs.
            if not (isinstance(key, str) and key.isascii() and key.isprintable() and key):
                raise CredentialRetrievalError(
                    provider=self._loaded.method, error_msg="its keys are no plain text"
                )
        self._keys = keys
        return keys

    def _note(self, request: AWSRequest, **_: object) -> None:
        if self._loaded is not None:
            request.context[_SIGNED_WITH] = self.get_frozen_credentials()

    def _again(
        self,
        response: tuple[object, Mapping[str, Mapping[str, str]]] | None,
        request_dict: Mapping[str, MutableMapping[str, object]],
        **_: object,
    ) -> float | None:
        """Return 0, no wait, when a refused call is to be sent again, once, with other keys.

        AWS looks at the keys first: what it refused for them has done nothing.
        """
        code = response[1].get("Error", {}).get("Code") if response else None
        context = request_dict["context"]
        if code not in ENDED_KEYS or context.get(_REPEATED):
            return None
        context[_REPEATED] = True
        with self._lock:
            return 0.0 if self._renewed(context.get(_SIGNED_WITH)) else None

    def _renewed(self, ended: object) -> bool:
        """Say whether there are other keys than those that ended; the caller holds the lock."""
        if self._keys != ended:
            return True  # another thread has found them
        try:
            loaded = self._read()
            keys = _explained(loaded.get_frozen_credentials, loaded.method)() if loaded else None
        except (BotoCoreError, ClientError) as error:
            self.problem = str(error)
            return False  # the refusal itself is told
        if loaded is None or keys is None or keys == ended:
            return False
        self._loaded, self._keys = loaded, keys
        return True

    def _read(self) -> Credentials | None:
        """Read the credentials from where the settings say; `problem` is why that failed last."""
        try:
            loaded = self._load()
        except (BotoCoreError, ClientError) as error:
            self.problem = str(error)
            raise
        self.problem = ""
        return loaded


def _why(error: Exception) -> str:
    """Return what an error that Python raised means for credentials."""
    match error:
        case OSError(strerror=str() as why):
            return f"{error.filename}: {why}" if error.filename else why
        case json.JSONDecodeError():
            return "what it returned is no JSON"
        case UnicodeDecodeError():
            return "what it returned is no UTF-8"
        case EOFError():
            return "it needs a code, and nobody is at a terminal to type one"
        case AttributeError() | IndexError() | KeyError() | TypeError():
            return "it is empty, or what it returned has another form than AWS's credentials"
    return " ".join(str(error).split()) or type(error).__name__


def _explained(work: Callable[[], T], method: str) -> Callable[[], T]:
    """Return `work` with errors of botocore's own, also where a helper or a file is at fault.

    botocore lets through what Python raises: a program that is not there, a file without right
    to read it, text that is no JSON, a prompt for a code where nobody is at a terminal.
    """

    @functools.wraps(work)
    def explained() -> T:
        try:
            return work()
        except (BotoCoreError, ClientError):
            raise
        except Exception as error:
            raise CredentialRetrievalError(provider=method, error_msg=_why(error)) from error

    return explained


def user_credentials(profile: str | None) -> RenewedCredentials:
    """Return the credentials that the user's settings name: environment, files, login, role."""

    def load() -> Credentials | None:
        session = botocore.session.get_session()
        if profile is not None:
            session.set_config_variable("profile", profile)
        for provider in session.get_component("credential_provider").providers:
            provider.load = _explained(provider.load, provider.METHOD)
        found: Credentials | None = session.get_credentials()
        return found

    return RenewedCredentials(load)
