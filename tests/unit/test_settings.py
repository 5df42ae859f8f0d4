"""Settings of the user's that cannot work: each command names them, and none calls it a bug."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import pytest

from poormanray import cli
from poormanray.cli.local import local
from poormanray.waiting import Clock

Capture = pytest.CaptureFixture[str]

KEYS = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "nothing"}
ROLE = {"AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/x"}
SSO = "sso_account_id = 111122223333\nsso_role_name = r\n"
START = "https://example.awsapps.com/start"


@dataclass(frozen=True, slots=True)
class Broken:
    """A setting that cannot work: how it is set, and what the error must name."""

    names: str
    env: Mapping[str, str] = field(default_factory=dict)
    profile: str = ""
    config: bytes = b""
    sso_cache: str | None = None


def _helper(body: str) -> str:
    """Return the line of a credential_process that runs some shell."""
    return f"credential_process = /bin/sh -c '{body}'\n"


def _returning(text: str) -> str:
    return _helper(f'printf "%s" "{text}"')


HELPERS = {
    "not found": "credential_process = /nowhere/helper --now\n",
    "empty": "credential_process =\n",
    "a folder": "credential_process = /tmp\n",
    "unclosed": "credential_process = 'x\n",
    "fails": _helper("echo nobody logged in >&2; exit 3"),
    "fails in bytes": _helper('printf "\\377" >&2; exit 3'),
    "text": _returning("hello"),
    "bytes": _helper('printf "\\377"'),
    "nothing": _helper(":"),
    "a list": _returning("[]"),
    "no keys": _returning('{\\"Version\\": 1}'),
    "null keys": _returning(
        '{\\"Version\\": 1, \\"AccessKeyId\\": null, \\"SecretAccessKey\\": null}'
    ),
    "odd expiry": _returning(
        '{\\"Version\\": 1, \\"AccessKeyId\\": \\"a\\", \\"SecretAccessKey\\": \\"b\\", '
        '\\"Expiration\\": \\"soonish\\"}'
    ),
}
VALUES = {
    "AWS_ENDPOINT_URL": ["localhost", "http://a b", "ftp://x", "http://[::1"],
    "AWS_ENDPOINT_URL_EC2": ["http://x:abc", "http://x:99999", "http://\u00e9\udcff"],
    "AWS_METADATA_SERVICE_TIMEOUT": ["x", "1.5"],
    "AWS_EC2_METADATA_SERVICE_ENDPOINT": ["http://[::1"],
    "AWS_DEFAULTS_MODE": ["odd"],
    "AWS_STS_REGIONAL_ENDPOINTS": ["odd"],
    "AWS_REGION": ["US EAST", "us-east-1\n", "x/../y", "\udcff"],
    "AWS_DEFAULT_REGION": ["US EAST"],
    "AWS_CA_BUNDLE": ["/nowhere.pem", "/tmp", "/etc/passwd"],
    "REQUESTS_CA_BUNDLE": ["/nowhere.pem"],
    "HTTPS_PROXY": ["http://[::1", ":", "socks5://x:1"],
    "https_proxy": ["http://x:abc"],
    "AWS_PROFILE": ["nobody"],
    "AWS_ACCESS_KEY_ID": ["x\ny", "\udcff"],
    "AWS_SESSION_TOKEN": ["x\ny"],
    "AWS_CREDENTIAL_EXPIRATION": ["soon"],
}
IN_PROFILE = {
    "region": "US EAST",
    "endpoint_url": "nonsense",
    "metadata_service_timeout": "x",
    "ca_bundle": "/nowhere.pem",
    "defaults_mode": "odd",
    "services": "gone",
}


def broken_settings() -> Iterator[tuple[str, Broken]]:
    """Yield every broken setting of this page by name."""
    for name, line in HELPERS.items():
        yield f"helper: {name}", Broken("credential_process", profile=line)
    for variable, values in VALUES.items():
        for value in values:
            yield f"{variable}={value!a}", Broken(variable, {**KEYS, variable: value})
    for key, value in IN_PROFILE.items():
        yield f"profile: {key}", Broken(key, KEYS, f"{key} = {value}\n")
    token = "AWS_WEB_IDENTITY_TOKEN_FILE"
    for word in ("/nowhere/token", "/tmp", "/proc/self/exe"):
        yield f"token file {word}", Broken(token, {**ROLE, token: word})
    container = "AWS_CONTAINER_CREDENTIALS_FULL_URI"
    for uri in ("nonsense", "http://example.com/"):
        yield f"container {uri}", Broken(container, {container: uri})
    session = f"sso_session = s\n{SSO}[sso-session s]\nsso_region = us-east-1\n"
    session += f"sso_start_url = {START}\n"
    for cached in (None, "{ not", "[]"):
        yield f"sso {cached}", Broken("sso_session", profile=session, sso_cache=cached)
    yield "no sso session", Broken("sso_session", profile=f"sso_session = gone\n{SSO}")
    yield "source", Broken("source_profile", profile="role_arn = r\nsource_profile = gone\n")
    for name, data in {"open": b"[default\n", "bare": b"region = x\n", "bytes": b"\xff\0["}.items():
        yield f"config: {name}", Broken("config", config=data)
        yield f"credentials: {name}", Broken("secrets", config=data)


ALL = dict(broken_settings())
# One of each kind goes through every command.
SOME = (
    "helper: not found",
    "AWS_METADATA_SERVICE_TIMEOUT='x'",
    "config: bytes",
)


def commands(folder: Path) -> dict[str, list[str]]:
    """Return words for every command that talks to AWS."""
    scripts = folder / "scripts"
    scripts.mkdir()
    (scripts / "one.sh").write_text("true\n")
    more = {
        "run": ["-c", "id"],
        "map": [str(scripts)],
        "results": ["-o", str(folder / "results")],
        "report": ["-o", str(folder / "report.html")],
        "terminate": ["--yes"],
    }
    apart = {"version", "ssh", "local"}
    return {name: [name, *more.get(name, [])] for name in cli.COMMANDS if name not in apart}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Broken], None]:
    """Return what makes a broken setting the user's."""
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    # A helper that fails is asked again for some seconds: of this clock's.
    now = [0.0]
    clock = Clock(1.0, lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr("poormanray.aws.session.Clock", lambda scale: replace(clock, scale=scale))
    config, secrets = tmp_path / "config", tmp_path / "secrets"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PMR_CLUSTER", "demo")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(secrets))

    def set_it(broken: Broken) -> None:
        for name, value in broken.env.items():
            monkeypatch.setenv(name, value)
        config.write_text(f"[default]\n{broken.profile}")
        if broken.config:
            (tmp_path / broken.names).write_bytes(broken.config)
        if broken.sso_cache is not None:
            cache = tmp_path / ".aws/sso/cache"
            cache.mkdir(parents=True)
            (cache / f"{hashlib.sha1(b's').hexdigest()}.json").write_text(broken.sso_cache)

    return set_it


def ended(words: list[str], capsys: Capture) -> tuple[int, str, str]:
    """Run a command here; return its code, and what it wrote to stdout and to stderr."""
    code = cli._outcome(words)
    said = capsys.readouterr()
    return code, said.out, said.err


@pytest.mark.parametrize("name", ALL)
def test_a_broken_setting_is_named(
    name: str, use: Callable[[Broken], None], capsys: Capture
) -> None:
    use(ALL[name])
    code, out, err = ended(["list", "-n", "demo"], capsys)
    error, hint = err.splitlines()[-2:]
    assert (code, out) == (5, "")
    assert error.startswith("error: ")
    assert ALL[name].names in error
    assert hint.startswith("  next: ")
    assert "nothing" not in err.replace("is nothing", "")  # the secret key
    assert "Traceback" not in err


@pytest.mark.parametrize("name", SOME)
def test_every_command_names_it_in_words_and_in_json(
    name: str, use: Callable[[Broken], None], capsys: Capture, tmp_path: Path
) -> None:
    use(ALL[name])
    for words in commands(tmp_path).values():
        code, out, err = ended(words, capsys)
        assert (code, out) == (5, ""), (words, err)
        assert ALL[name].names in err, words
        assert "  next: " in err
        code, out, err = ended([words[0], "--json", *words[1:]], capsys)
        told = json.loads(out.splitlines()[-1])["error"]
        assert (code, told["exit_code"]) == (5, 5), words
        assert ALL[name].names in told["message"], words
        assert told["hint"]


def test_every_command_is_walked(tmp_path: Path) -> None:
    asked = {*commands(tmp_path), "version", "ssh", "local"}
    assert asked == set(cli.COMMANDS)
    assert isinstance(local, click.Group)
