"""A short slice of scripts/fuzz, and what it cannot show: bodies that are too long to be judged."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from poormanray.waiting import Clock, poll
from scripts import fuzz
from tests.cloud.conftest import Pmr, own_cloud

LONG = b"x" * (9 * 2**20)


@pytest.fixture(scope="module")
def pmr(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pmr]:
    with own_cloud(tmp_path_factory.mktemp("home")) as command:
        yield command


@pytest.fixture(scope="module")
def target(pmr: Pmr) -> fuzz.Target:
    return fuzz.Target.of(pmr.state)


def answered(target: fuzz.Target, request: fuzz.Request) -> bytes:
    host, _, port = target.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as line:
        line.sendall(request.with_headers(Connection="close").raw())
        return b"".join(iter(lambda: line.recv(65536), b""))


def test_nothing_malformed_or_forged_is_executed(pmr: Pmr) -> None:
    statuses, wrong = fuzz.fuzz(pmr.state, count=2000, seed=1)
    assert not wrong, wrong[:3]
    assert sum(statuses.values()) == 2000
    assert statuses["403"] + statuses["400"] + statuses["401"] > 1000


def test_what_is_well_signed_is_taken(target: fuzz.Target) -> None:
    call = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.ListCommands"}
    plain = fuzz.Request("POST", "/", {"Host": target.host, **call}, b"{}", "ssm")
    assert b" 400 " in answered(target, plain).splitlines()[0]
    assert b" 200 " in answered(target, fuzz.signed(target, plain)).splitlines()[0]
    late = fuzz.signed(target, plain, off_s=-301)
    assert b"InvalidSignatureException" in answered(target, late)


def test_a_replay_is_taken_while_it_is_fresh_and_refused_when_old(target: fuzz.Target) -> None:
    call = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.ListCommands"}
    plain = fuzz.Request("POST", "/", {"Host": target.host, **call}, b"{}", "ssm")
    captured = fuzz.signed(target, plain, off_s=3 - fuzz.LIFE_S)
    for _ in range(2):
        assert b" 200 " in answered(target, captured).splitlines()[0]
    poll(
        lambda: b"InvalidSignatureException" in answered(target, captured),
        clock=Clock(),
        timeout_s=20,
        first_s=0.2,
        longest_s=0.2,
    )


def test_a_long_body_is_refused_unread(pmr: Pmr, target: fuzz.Target) -> None:
    pid = json.loads((pmr.state / "cloud.json").read_text())["pid"]
    call = {"Content-Type": "application/x-amz-json-1.1", "X-Amz-Target": "AmazonSSM.SendCommand"}
    plain = fuzz.Request("POST", "/", {"Host": target.host, **call}, LONG, "ssm")
    before = psutil.Process(pid).memory_info().rss
    for request in (plain, fuzz.signed(replace(target, access_key="AKIAIOSFODNN7EXAMPLE"), plain)):
        assert b" 400 " in answered(target, request).splitlines()[0]
    said = answered(target, fuzz.signed(target, plain))
    assert b" 413 " in said.splitlines()[0]
    assert b"RequestEntityTooLarge" in said
    assert psutil.Process(pid).memory_info().rss - before < len(LONG)


def test_a_long_object_is_stored(target: fuzz.Target) -> None:
    digest = {"Host": target.host, "X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}
    for path, body in (("/long", b""), ("/long/object", LONG)):
        made = fuzz.Request("PUT", path, digest, body, "s3")
        assert b" 200 " in answered(target, fuzz.signed(target, made)).splitlines()[0]
