"""Rules for requests that are to go wrong: which one is struck, and what then happens to it."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from poormanray.local.refusals import Answer, Protocol, Refusal

# `slow` and `clock-skew` mean their seconds as a size; the others as how long they stay.
SIZED_KINDS = ("slow", "clock-skew")
REFUSING_KINDS = ("throttle", "5xx", "no-capacity")
PROXY_KINDS = ("proxy-page", "proxy-ok", "proxy-empty")
REQUEST_KINDS = (*REFUSING_KINDS, *PROXY_KINDS, "lost-request", "lost-response", *SIZED_KINDS)
# What EC2 can have no capacity for.
_CAPACITY = frozenset({"ec2:RunInstances", "ec2:StartInstances", "ec2:CreateFleet"})

_EXCEEDED, _INTERNAL = "Rate exceeded", "An internal error has occurred"
_NO_CAPACITY = (
    "We currently do not have sufficient capacity in the Availability Zone you requested. "
    "Our system will be working on provisioning additional capacity."
)
# Source: the services' pages of common errors, and botocore's lists of what it tries again.
_ERRORS: dict[str, dict[Protocol, tuple[str, str, int]]] = {
    "throttle": {
        Protocol.JSON: ("ThrottlingException", _EXCEEDED, 400),
        Protocol.EC2: ("RequestLimitExceeded", "Request limit exceeded.", 503),
        Protocol.QUERY: ("Throttling", _EXCEEDED, 400),
        Protocol.S3: ("SlowDown", "Please reduce your request rate.", 503),
    },
    "5xx": {
        Protocol.JSON: ("InternalServerError", _INTERNAL, 500),
        Protocol.EC2: ("InternalError", _INTERNAL, 500),
        Protocol.QUERY: ("ServiceFailure", _INTERNAL, 500),
        Protocol.S3: ("InternalError", _INTERNAL, 500),
    },
    "no-capacity": {Protocol.EC2: ("InsufficientInstanceCapacity", _NO_CAPACITY, 500)},
}


@dataclass(frozen=True, slots=True)
class Rule:
    """What is to go wrong with which requests.

    A request matches when its `service:operation` fits `operation` (`*` and `?` stand for
    others), and when it names one of `instance_ids` if there are any. Of those that match, the
    first `after` pass; each following one is struck with `probability`, at most `count` times.
    `seconds` (cloud time) is the size of `slow` and `clock-skew`, else how long the rule stays.
    """

    kind: str
    operation: str = "*"
    probability: float = 1.0
    count: int | None = None
    after: int = 0
    instance_ids: tuple[str, ...] = ()
    seconds: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """A request as the rules see it."""

    service: str
    operation: str
    body: bytes = b""

    @property
    def name(self) -> str:
        """Return `service:operation`."""
        return f"{self.service}:{self.operation}"


@dataclass(slots=True)
class Effects:
    """What happens to one request: refused, answered by a proxy, lost, slow or skewed."""

    refused_as: str = ""
    proxied_as: str = ""
    lost_request: bool = False
    lost_response: bool = False
    delay_s: float = 0.0
    skew_s: float = 0.0


@dataclass(slots=True)
class _Standing:
    """A rule and how far it is."""

    rule: Rule
    added_at_s: float
    chance: random.Random
    matched: int = 0
    struck: int = 0


@dataclass(slots=True)
class Faults:
    """The standing rules. Every method may be called from any thread."""

    now_s: Callable[[], float]
    _standing: dict[str, _Standing] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def add(self, rule: Rule) -> str:
        """Let a rule stand, and return its id."""
        chance = random.Random(rule.seed)  # noqa: S311 (must be the same again, not secret)
        with self._lock:
            rule_id = f"f{next(self._ids)}"
            self._standing[rule_id] = _Standing(rule, self.now_s(), chance)
            return rule_id

    def clear(self, rule_id: str | None = None) -> list[str]:
        """Take back one rule or all; return the ids of those that stood."""
        with self._lock:
            gone = [name for name in self._standing if rule_id in (None, name)]
            for name in gone:
                del self._standing[name]
            return gone

    def listed(self) -> list[dict[str, object]]:
        """Return every rule with how often it matched and struck, and whether it still may."""
        with self._lock:
            return [
                {
                    "id": name,
                    "kind": one.rule.kind,
                    "operation": one.rule.operation,
                    "probability": one.rule.probability,
                    "count": one.rule.count,
                    "after": one.rule.after,
                    "instance_ids": list(one.rule.instance_ids),
                    "seconds": one.rule.seconds,
                    "seed": one.rule.seed,
                    "matched": one.matched,
                    "struck": one.struck,
                    "spent": self._spent(one),
                }
                for name, one in self._standing.items()
            ]

    def strike(self, call: Call) -> Effects:
        """Return what happens to a request; rules are asked in order until one keeps it undone."""
        effects = Effects()
        with self._lock:
            for one in self._standing.values():
                if self._spent(one) or not _matches(one.rule, call):
                    continue
                one.matched += 1
                if one.matched <= one.rule.after or one.chance.random() >= one.rule.probability:
                    continue
                one.struck += 1
                _apply(one.rule, effects)
                if effects.refused_as or effects.proxied_as or effects.lost_request:
                    break
        return effects

    def _spent(self, one: _Standing) -> bool:
        rule = one.rule
        if rule.count is not None and one.struck >= rule.count:
            return True
        if rule.seconds is None or rule.kind in SIZED_KINDS:
            return False
        return self.now_s() >= one.added_at_s + rule.seconds


def refusal(kind: str, protocol: Protocol) -> Refusal:
    """Return the error of a refusing kind as a service of this protocol words it."""
    code, message, status = _ERRORS[kind][protocol]
    return Refusal(code, message, status=status)


def proxy_answer(kind: str) -> Answer:
    """Return what a proxy between client and service answers in its place."""
    page = b"<!DOCTYPE html><html><head><title>Gateway</title></head><body>busy</body></html>"
    if kind == "proxy-empty":
        return Answer(200, b"", "")
    return Answer(200 if kind == "proxy-ok" else 503, page, "text/html")


def _matches(rule: Rule, call: Call) -> bool:
    if rule.kind == "no-capacity" and call.name not in _CAPACITY:
        return False
    if not fnmatchcase(call.name.lower(), rule.operation.lower()):
        return False
    return not rule.instance_ids or any(name.encode() in call.body for name in rule.instance_ids)


def _apply(rule: Rule, effects: Effects) -> None:
    match rule.kind:
        case "lost-request":
            effects.lost_request = True
        case "lost-response":
            effects.lost_response = True
        case "slow":
            effects.delay_s += rule.seconds or 0.0
        case "clock-skew":
            effects.skew_s += rule.seconds or 0.0
        case kind if kind in PROXY_KINDS:
            effects.proxied_as = kind
        case kind:
            effects.refused_as = kind
