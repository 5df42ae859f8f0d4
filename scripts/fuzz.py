"""Throw malformed and forged requests at a local cloud: none may be executed, none may break it.

    scripts/fuzz [--count N] [--seed N]

It starts a local cloud of its own, sends N requests (100,000) drawn by the seed over raw sockets,
and then looks at what the cloud has counted and logged. Exits 1 when a request was taken, the
cloud failed at one, or it has died.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from scripts.measuring import end_on_sigterm

WORKERS = 4
WAIT_S = 20.0
# For what is not a whole request, and so gets no answer.
SHORT_WAIT_S = 0.05
# Whoever captures a request may send it again for so long, as at AWS; the cloud's SKEW_MAX_S.
LIFE_S = 300.0
TIMESTAMP = "%Y%m%dT%H%M%SZ"
LONG = b"a" * 300_000
MANY = b"".join(b"h%d: v\r\n" % n for n in range(3000))
PRINTABLE = bytes(range(0x21, 0x7F))
SCRIPT = {
    "InstanceIds": ["i-0123456789abcdef0"],
    "DocumentName": "AWS-RunShellScript",
    "Parameters": {"commands": ["touch /root/intruder"]},
}
LAUNCH = {"Action": "RunInstances", "Version": "2016-11-15", "MinCount": "1", "MaxCount": "1"}


@dataclass(frozen=True, slots=True)
class Target:
    """A local cloud, as its `cloud.json` tells of it."""

    host: str
    access_key: str
    secret_key: str

    @classmethod
    def of(cls, state: Path) -> Target:
        """Read the contact in a state folder."""
        said = json.loads((state / "cloud.json").read_text())
        return cls(said["url"].partition("//")[2], said["access_key"], said["secret_key"])


@dataclass(frozen=True, slots=True)
class Request:
    """A request to be written on a socket."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    service: str

    def raw(self) -> bytes:
        """Return its bytes."""
        head = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        length = (
            "" if "Transfer-Encoding" in self.headers else f"Content-Length: {len(self.body)}\r\n"
        )
        return (
            f"{self.method} {self.path} HTTP/1.1\r\n{head}{length}\r\n".encode("latin-1")
            + self.body
        )

    def with_headers(self, **changes: str | None) -> Request:
        """Return it with headers changed or, by None, left out; `_` in a name stands for `-`."""
        headers = dict(self.headers)
        for name, value in changes.items():
            headers.pop(name.replace("_", "-"), None)
            if value is not None:
                headers[name.replace("_", "-")] = value
        return replace(self, headers=headers)


@dataclass(slots=True)
class Tally:
    """What came back."""

    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def bare(target: Target, draw: random.Random) -> Request:
    """Return a request that would do something, without a signature."""
    host = {"Host": target.host}
    match draw.randrange(4):
        case 0:
            kind = {"Content-Type": "application/x-amz-json-1.1"}
            aim = {"X-Amz-Target": "AmazonSSM.SendCommand"}
            return Request("POST", "/", {**host, **kind, **aim}, json.dumps(SCRIPT).encode(), "ssm")
        case 1:
            kind = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
            return Request("POST", "/", {**host, **kind}, urlencode(LAUNCH).encode(), "ec2")
        case 2:
            digest = {"X-Amz-Content-SHA256": hashlib.sha256(b"x").hexdigest()}
            return Request("PUT", "/intruder", {**host, **digest}, b"x", "s3")
    return Request("POST", "/_pmr/reset", host, b"", "pmr")


def signed(target: Target, request: Request, *, off_s: float = 0, key: str = "") -> Request:
    """Sign a request, as if it were made `off_s` later."""
    signer = S3SigV4Auth if request.service == "s3" else SigV4Auth
    credentials = Credentials(key or target.access_key, target.secret_key)
    auth = signer(credentials, request.service, "us-east-1")
    made = AWSRequest(
        request.method, f"http://{target.host}{request.path}", request.headers, request.body
    )
    made.context["timestamp"] = (datetime.now(UTC) + timedelta(seconds=off_s)).strftime(TIMESTAMP)
    made.headers["X-Amz-Date"] = made.context["timestamp"]
    # botocore's own `add_auth` takes the time from the clock.
    canonical = auth.canonical_request(made)
    scope = f"{credentials.access_key}/{auth.credential_scope(made)}"
    names = auth.signed_headers(auth.headers_to_sign(made))
    signature = auth.signature(auth.string_to_sign(made, canonical), made)
    text = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}"
    return request.with_headers(X_Amz_Date=made.context["timestamp"], Authorization=text)


def spoiled(target: Target, draw: random.Random) -> bytes:
    """Return a well signed request after which something was changed."""
    good = signed(target, bare(target, draw))
    auth = good.headers["Authorization"]
    name = draw.choice(
        sorted(
            {"Authorization", "X-Amz-Date"}
            | (good.headers.keys() & {"X-Amz-Target", "X-Amz-Content-SHA256"})
        )
    )
    changes: list[Callable[[], Request]] = [
        lambda: replace(good, body=good.body + b" "),
        lambda: replace(good, body=flipped(good.body or b"x", draw)),
        lambda: replace(
            good, path=good.path + draw.choice(["x", "%00", "?a=b", "#x", "/..", ";", "%2e"])
        ),
        lambda: replace(
            good,
            path=draw.choice(["x", "*", "/%", f"http://{target.host}", "http://evil"]) + good.path,
        ),
        lambda: replace(
            good, method=draw.choice(["GET", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "X"])
        ),
        lambda: good.with_headers(**{name: flipped(good.headers[name].encode(), draw).decode()}),
        lambda: good.with_headers(**{name: None}),
        lambda: good.with_headers(**{name: good.headers[name] + ", " + good.headers[name]}),
        lambda: good.with_headers(Authorization=auth.replace("/us-east-1/", "/eu-west-1/")),
        lambda: good.with_headers(Authorization=auth.replace(f"/{good.service}/", "/iam/")),
        lambda: good.with_headers(Authorization=auth.replace("host;", "").replace(";host", "")),
        lambda: good.with_headers(Authorization=auth[: draw.randrange(len(auth))]),
        lambda: good.with_headers(Authorization=auth.replace("HMAC-SHA256", "ECDSA-P256-SHA256")),
    ]
    return draw.choice(changes)().raw()


def stranger(target: Target, draw: random.Random) -> bytes:
    """Return a request with all in order but who sends it, when, from where, or to whom."""
    plain = bare(target, draw)
    port = target.host.rpartition(":")[2]
    names = [
        "evil.example",
        f"evil.example:{port}",
        "127.0.0.1",
        f"[::1]:{port}",
        "",
        f"localhost.evil:{port}",
    ]
    changes: list[Callable[[], Request]] = [
        lambda: plain,
        lambda: signed(
            target, plain, off_s=draw.choice([-1, 1]) * draw.uniform(LIFE_S + 10, 10**7)
        ),
        lambda: signed(target, plain, key="AKIAIOSFODNN7EXAMPLE"),
        lambda: signed(replace(target, secret_key=str(draw.random())), plain),
        lambda: signed(replace(target, host=other(names, draw)), plain.with_headers(Host=None)),
        lambda: signed(target, plain).with_headers(Host=draw.choice(names)),
        lambda: signed(target, plain).with_headers(
            Origin=draw.choice(["null", "http://evil.example"])
        ),
        lambda: signed(target, plain).with_headers(Sec_Fetch_Mode="no-cors"),
        lambda: replace(plain, path=f"{plain.path}?{presigned(draw, target)}"),
    ]
    return draw.choice(changes)().raw()


def replayed(target: Target, draw: random.Random) -> bytes:
    """Return a request that was good in its time, to the letter, long enough ago."""
    age_s = draw.choice([LIFE_S + 5, 3_600, 86_400, draw.uniform(LIFE_S + 5, 10**8)])
    return signed(target, bare(target, draw), off_s=-age_s).raw()


def other(names: Sequence[str], draw: random.Random) -> str:
    """Return a name that can stand in a URL."""
    return draw.choice([name for name in names if name])


def presigned(draw: random.Random, target: Target) -> str:
    """Return a query that looks as if it carried a signature."""
    made = datetime.now(UTC) - timedelta(seconds=draw.choice([0, 100, 10**6]))
    scope = f"{target.access_key}/{made:%Y%m%d}/us-east-1/{draw.choice(['s3', 'ssm'])}/aws4_request"
    values = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": scope,
        "X-Amz-Date": made.strftime(TIMESTAMP),
        "X-Amz-Expires": draw.choice(["60", "0", "-1", "999999999", "x", "9" * 5000]),
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": f"{draw.getrandbits(256):064x}",
    }
    values.pop(draw.choice([*values, ""]), None)
    return urlencode(values)


def chunked(target: Target, draw: random.Random) -> bytes:
    """Return a signed request whose body is chunked nonsense, or has two lengths."""
    good = signed(target, bare(target, draw)).with_headers(Transfer_Encoding="chunked")
    size = draw.choice([b"0", b"-1", b"ffffffffffffffffff", b"zz", b"5;a=b", b"\x00", b"1\n", b""])
    end = draw.choice([b"", b"\r\n", b"\r\n0\r\n\r\n", b"\n0\n\n"])
    code = draw.choice(["chunked", "gzip", "chunked, chunked", "\x0bchunked", "identity"])
    mixed = good.with_headers(Transfer_Encoding=code, Content_Length=draw.choice([None, "0", "5"]))
    return replace(mixed, body=size + b"\r\n" + draw.randbytes(draw.randrange(9)) + end).raw()


def malformed(target: Target, draw: random.Random) -> bytes:
    """Return what is no request, or a monstrous one."""
    host = b"Host: %s\r\n" % target.host.encode()
    get, end = b"GET / HTTP/1.1\r\n" + host, b"\r\n\r\n"
    noise = bytes(draw.choice(PRINTABLE) for _ in range(80))
    length = draw.choice([b"-1", b"1e9", b"9" * 5000, b"5,5", b"99999999999999"])
    path = draw.choice([b"%ff%fe", b"\xff\xfe", b"?%", b"?&&=&", b"_pmr/status", b"moto-api/reset"])
    scope = b"AWS4-HMAC-SHA256 Credential=\xff/\xff/\xff/s3/aws4_request, SignedHeaders=host"
    return draw.choice(
        [
            draw.randbytes(draw.randrange(1, 400)) + end,
            b"GET /" + LONG[: draw.choice([5_000, 300_000])] + b" HTTP/1.1\r\n" + host + b"\r\n",
            get + MANY + b"\r\n",
            b"GET / HTTP/" + draw.randbytes(3) + b"\r\n" + host + b"\r\n",
            draw.randbytes(5) + b" / HTTP/1.1\r\n" + host + b"\r\n",
            b"POST / HTTP/1.1\r\n" + host + b"Content-Length: " + length + end + b"abc",
            b"GET /" + path + b" HTTP/1.1\r\n" + host + b"\r\n",
            get + b"Authorization: " + noise + end,
            b"POST / HTTP/1.1\r\nHost: \xff\r\nX-Amz-Target: \xff\r\nContent-Type: \xe9" + end,
            b"GET / HTTP/1.0" + end,
            get + b"Authorization: " + scope + b", Signature=\xff\r\nX-Amz-Date: \xff" + end,
        ]
    )


def flipped(data: bytes, draw: random.Random) -> bytes:
    """Return data with one byte replaced by another printable one."""
    at = draw.randrange(len(data))
    fresh = draw.choice([byte for byte in PRINTABLE if byte != data[at]])
    return data[:at] + bytes([fresh]) + data[at + 1 :]


# The first three are whole requests, which must be answered.
KINDS = (spoiled, stranger, replayed, malformed, chunked)
WHOLE = (spoiled, stranger, replayed)


def send(target: Target, data: bytes, wait_s: float) -> str:
    """Send bytes on a connection of their own, and return the status of the first answer."""
    host, _, port = target.host.partition(":")
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as line:
        try:
            line.sendall(data)
            line.settimeout(wait_s)
            answer = line.recv(65536)
        except TimeoutError:
            return "none"
        except (ConnectionResetError, BrokenPipeError):
            return "closed"
    return answer.split(b" ", 2)[1].decode("latin-1") if answer.startswith(b"HTTP/") else "closed"


def attack(target: Target, seed: int, count: int) -> Tally:
    """Send `count` requests drawn by the seed."""
    draw = random.Random(seed)  # noqa: S311 (must be the same again)
    tally = Tally()
    for _ in range(count):
        kind = draw.choices(KINDS, weights=(3, 2, 1, 2, 1))[0]
        data, whole = kind(target, draw), kind in WHOLE
        status = send(target, data, WAIT_S if whole else SHORT_WAIT_S)
        tally.statuses[status] += 1
        if status.startswith("2") or status == "500" or (whole and status == "none"):
            tally.wrong.append(f"{kind.__name__}: {status}: {data[:1500]!r}")
    return tally


def status_of(target: Target) -> dict[str, Any]:
    """Return what the cloud says of instances, commands and calls."""
    host, _, port = target.host.partition(":")
    ask = signed(target, Request("GET", "/_pmr/status", {"Host": target.host}, b"", "pmr"))
    with socket.create_connection((host, int(port)), timeout=WAIT_S) as line:
        line.sendall(ask.with_headers(Connection="close").raw())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(f"the cloud does not answer as it should: {head!r}")
    said: dict[str, Any] = json.loads(body)
    return {name: said[name] for name in ("instances", "run_command", "calls")}


def fuzz(state: Path, *, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Attack the cloud of a state folder; return the statuses and all that is wrong."""
    target = Target.of(state)
    before, log = status_of(target), state / "cloud.log"
    logged = log.stat().st_size
    with ThreadPoolExecutor(WORKERS) as pool:
        shares = [count // WORKERS + (n < count % WORKERS) for n in range(WORKERS)]
        seeds = [seed * WORKERS + n for n in range(WORKERS)]
        tallies = list(pool.map(lambda n: attack(target, seeds[n], shares[n]), range(WORKERS)))
    statuses = sum((tally.statuses for tally in tallies), Counter[str]())
    wrong = [text for tally in tallies for text in tally.wrong]
    after = status_of(target)
    wrong += [f"{name} has changed: {after[name]}" for name in after if after[name] != before[name]]
    with log.open("rb") as lines:
        lines.seek(logged)
        told = lines.read().decode(errors="replace")
    trouble = re.search("Traceback|uncaptured", told)
    wrong += [f"in the log: {told[trouble.start() :][:3000]}"] if trouble else []
    return statuses, wrong


def main() -> int:
    """Fuzz a cloud of its own."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end_on_sigterm()
    pmr = Path(sys.executable).with_name("pmr")
    with tempfile.TemporaryDirectory(prefix="pmr-fuzz-") as folder:
        environment = {**os.environ, "PMR_LOCAL_DIR": folder}
        subprocess.run([pmr, "local", "up"], env=environment, check=True)
        started_s = time.monotonic()
        try:
            statuses, wrong = fuzz(Path(folder), count=options.count, seed=options.seed)
        finally:
            subprocess.run([pmr, "local", "down"], env=environment, check=True)
    took_s = time.monotonic() - started_s
    print(f"{sum(statuses.values())} requests in {took_s:.0f} s with seed {options.seed}")
    print(f"answered: {dict(statuses.most_common())}")
    print("\n".join(wrong[:20]) or "none was executed, and the cloud failed at none")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
