"""Asking the local cloud about itself: what answers in its place is told as that."""

from __future__ import annotations

import io
import urllib.error
import urllib.request
from email.message import Message
from http.client import BadStatusLine, IncompleteRead
from typing import NoReturn

import pytest

from poormanray.aws.local_admin import ask
from poormanray.aws.session import Endpoint
from poormanray.errors import AwsRefused, NotReached

CLOUD = Endpoint("http://127.0.0.1:1", "key", "secret")


@pytest.mark.parametrize("page", [b"<html>", b"", b"[" * 100_000, b"\xff"])
def test_a_page_of_another_program(page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_given: object, **_named: object) -> io.BytesIO:
        return io.BytesIO(page)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", opened)
    with pytest.raises(NotReached, match="does not answer"):
        ask(CLOUD, "GET", "status")


@pytest.mark.parametrize("error", [BadStatusLine("x"), IncompleteRead(b"x"), TimeoutError("late")])
def test_an_answer_that_is_none(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_given: object, **_named: object) -> NoReturn:
        raise error

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", opened)
    with pytest.raises(NotReached, match="does not answer"):
        ask(CLOUD, "GET", "status")


@pytest.mark.parametrize("page", [b"<html>", b"[" * 100_000, b"[]", b"{}"])
def test_a_refusal_of_another_program(page: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(*_given: object, **_named: object) -> NoReturn:
        body = io.BytesIO(page)
        raise urllib.error.HTTPError("http://127.0.0.1:1", 403, "no", Message(), body)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", opened)
    with pytest.raises(AwsRefused, match="Forbidden"):
        ask(CLOUD, "GET", "status")
