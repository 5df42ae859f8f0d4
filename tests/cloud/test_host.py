"""What a script meets on an instance, and how it ends: the agent's ways (agent-facts §2 to §6)."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.hosting import ONE, TWO, Guests, guests, is_root, pause, require, soon


@pytest.fixture(scope="module", params=["namespaces", "processes"])
def on(request: pytest.FixtureRequest) -> Iterator[Guests]:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        require(cast("str", request.param), patch)
        with guests(Path(folder)) as running:
            yield running


def test_environment_is_the_agents_bare_one(on: Guests) -> None:
    said = on.says('pwd; umask; tty; env | grep -E "^(HOME|USER|SHELL|TERM|LOGNAME|AWS_P)" || true')
    assert said.splitlines() == ["/usr/bin", "0022", "not a tty"]
    assert on.says("echo $AWS_SSM_INSTANCE_ID $AWS_SSM_REGION_NAME $LANG") == (
        f"{ONE} eu-west-1 C.UTF-8"
    )
    assert on.says("echo $AWS_SSM_PLATFORM_NAME $AWS_SSM_PLATFORM_VERSION") == "Amazon Linux 2023"
    assert on.says("echo $SSM_COMMAND_ID").startswith("command-")


def test_environment_of_the_cloud_is_not_inherited(
    on: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    assert "planted-secret" not in on.says("cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("exit 7", 7),
        ("exit 194", 194),
        ("exit 137", 137),
        ("false | true", 0),
        ("no-such-command", 127),
        ("#!/no/such/interpreter", 127),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
    ],
)
def test_exit_code_is_that_of_sh(on: Guests, script: str, code: int) -> None:
    assert on.run(script).exit_code == code


def test_shebang_is_honoured(on: Guests) -> None:
    assert on.says('#!/bin/bash\necho "${BASH_VERSION:+bash}"') == "bash"


def test_shebang_on_the_second_line_is_a_comment(on: Guests) -> None:
    shell = on.says("readlink /proc/$$/exe")
    assert on.says("\n#!/bin/bash\nreadlink /proc/$$/exe") == shell


def test_carriage_returns_are_kept(on: Guests) -> None:
    assert on.run(b"printf %s x\r\n").stdout == b"x\r"


def test_stdin_is_empty_and_no_signal_is_ignored_or_blocked(on: Guests) -> None:
    assert on.says("readlink /proc/$$/fd/0") == "/dev/null"
    masks = on.says("grep -E '^Sig(Ign|Blk)' /proc/self/status").split()
    assert [int(mask, 16) for mask in masks[1::2]] == [0, 0]


def test_the_search_path_is_that_of_systemd(on: Guests) -> None:
    standard = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert on.says("echo $PATH").endswith(standard)


def test_a_window_of_screen_has_a_terminal_and_a_shell(on: Guests) -> None:
    script = (
        'f=${TMPDIR:-/tmp}/w; rm -f $f; screen -DmS v sh -c "echo \\$TERM \\$SHELL >$f"; cat $f'
    )
    assert on.says(script).split() == ["screen", "/bin/sh"]


def test_screen_says_nothing_of_a_window_that_does_not_start(on: Guests) -> None:
    assert on.run("screen -dmS none /no/such/program").exit_code == 0


def test_script_may_be_large_and_binary(on: Guests) -> None:
    ended = on.run(b"#!/bin/sh\nexit 3\n" + bytes(range(256)) * 16_000)
    assert ended.exit_code == 3


def test_same_command_runs_again_as_after_exit_code_194(on: Guests) -> None:
    script = "echo x >>${TMPDIR:-/tmp}/again; grep -c x ${TMPDIR:-/tmp}/again"
    on.says("rm -f ${TMPDIR:-/tmp}/again")
    assert [on.start(script, command_id="again").wait().stdout for _ in range(2)] == [
        b"1\n",
        b"2\n",
    ]


def test_working_directory(on: Guests) -> None:
    assert on.run("pwd", folder="/usr/lib").stdout == b"/usr/lib\n"
    assert on.run("pwd", folder="no/such/folder").stdout == b"/usr/bin\n"
    assert on.run("pwd", folder="lib").stdout == b"/usr/bin\n"
    missing = on.run("pwd", folder="/no/such/folder")
    assert (missing.exit_code, missing.stdout) == (1, b"")
    assert b"no such file or directory" in missing.stderr


def test_output_keeps_its_head_and_is_drained(on: Guests) -> None:
    ended = on.run("head -c 9000000 /dev/zero; printf end >&2")
    assert (ended.exit_code, len(ended.stdout), ended.stderr) == (0, 24_001, b"end")


@pytest.mark.parametrize(
    "script",
    [
        "sleep 0.6 &",
        "sleep 0.6 >/dev/null &",
        "nohup sleep 0.6 &",
        "setsid -f sleep 0.6",
        "screen -D -m sleep 0.6",
    ],
)
def test_end_waits_for_both_pipes(on: Guests, script: str) -> None:
    started_s = time.monotonic()
    assert on.run(script).exit_code == 0
    assert time.monotonic() - started_s >= 0.55


@pytest.mark.parametrize(
    "script",
    [
        "sleep 5 >/dev/null 2>&1 &",
        "setsid -f sleep 5 >/dev/null 2>&1",
        "screen -dmS quick sleep 5",
    ],
)
def test_end_does_not_wait_for_what_closed_them(on: Guests, script: str) -> None:
    started_s = time.monotonic()
    assert on.run(script).exit_code == 0
    assert time.monotonic() - started_s < 3


BEATS = """
cd "${TMPDIR:-/tmp}"
rm -f plain nohup setsid screen
beat() { while :; do echo >>"$1"; sleep 0.1; done; }
beat plain &
nohup sh -c 'while :; do echo >>nohup; sleep 0.1; done' &
setsid sh -c 'while :; do echo >>setsid; sleep 0.1; done' >/dev/null 2>&1 </dev/null &
screen -dmS beats sh -c 'while :; do echo >>screen; sleep 0.1; done'
trap 'echo >trapped' EXIT TERM
while :; do sleep 0.1; done
"""


@pytest.mark.parametrize("how", ["timeout", "kill"])
def test_kill_is_one_sigkill_to_the_group(on: Guests, how: str) -> None:
    files = {name: on.path(f"tmp/{name}") for name in ("plain", "nohup", "setsid", "screen")}
    running = on.start(BEATS, timeout_s=4 if how == "timeout" else 60)
    soon(lambda: all(path.exists() for path in files.values()))
    if how == "kill":
        running.kill()
    ended = running.wait(10)
    assert (ended.exit_code, ended.timed_out, ended.killed) == (
        137,
        how == "timeout",
        how == "kill",
    )
    sizes = {name: path.stat().st_size for name, path in files.items()}
    soon(lambda: files["screen"].stat().st_size > sizes["screen"] + 3)
    grown = {name for name, path in files.items() if path.stat().st_size > sizes[name]}
    assert grown == {"setsid", "screen"}
    assert not on.path("tmp/trapped").exists()
    on.host.power_off(ONE)


def test_orphan_on_the_pipe_at_the_timeout(on: Guests) -> None:
    ended = on.start("setsid -f sleep 2", timeout_s=1).wait()
    assert (ended.exit_code, ended.timed_out, ended.orphaned) == (1, False, True)


def test_screen_lists_its_session(on: Guests) -> None:
    # The session's socket appears a moment after `screen -dmS` has returned.
    appears = "for i in $(seq 100); do screen -ls | grep listed && break; sleep 0.1; done"
    assert ".listed" in on.says(f"screen -dmS listed sleep 9; {appears}; screen -S listed -X quit")


def test_screen_runs_as_root_with_its_words_intact(on: Guests) -> None:
    script = """
        out=${TMPDIR:-/tmp}/words
        screen -dmS words sh -c 'printf "%s\\n" "$(id -u)" "$@" >"$0"' "$out" "a b" '' '*'
        for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; if [ -s "$out" ]; then break; fi; done
        cat "$out"
    """
    uid = on.says("id -u")
    assert on.run(script).stdout.decode().split("\n") == [uid, "a b", "", "*", ""]


def test_instances_do_not_share_their_files(on: Guests) -> None:
    root = "${PMR_ROOT:-/var/lib/pmr}"
    on.says(f"echo one >{root}/mine")
    on.says(f"test ! -e {root}/mine; echo two >{root}/mine", on=TWO)
    assert on.says(f"cat {root}/mine") == "one"
    on.host.destroy(TWO)
    assert not on.path("", on=TWO).exists()


def test_power_off_keeps_the_disk_and_empties_tmp(on: Guests) -> None:
    root, temporary = "${PMR_ROOT:-/var/lib/pmr}", "${TMPDIR:-/tmp}"
    on.says(f"echo kept >{root}/kept; echo lost >{temporary}/lost; screen -dmS s sleep 60")
    first = on.says("cat /proc/sys/kernel/random/boot_id")
    on.host.power_off(ONE)
    assert not on.host.running(ONE)
    with pytest.raises(OSError, match="not running"):
        on.host.execute(
            ONE, command_id="x", script=b"", working_directory="", timeout_s=5, on_end=print
        )
    on.host.boot(ONE, facts={})
    assert on.says(f"cat {root}/kept; ls {temporary}; screen -ls | grep -c Detached || true") == (
        "kept\n0"
    )
    assert (on.says("cat /proc/sys/kernel/random/boot_id") != first) is on.nested


def test_a_spot_notice_is_where_runners_look(on: Guests) -> None:
    assert on.says('test ! -e "$PMR_IMDS"; echo "$PMR_IMDS"').endswith("/run/spot-notice")
    on.host.notify(ONE, "the first")
    on.host.notify(ONE, "another")
    assert on.says('cat "$PMR_IMDS"') == "the first"
    assert on.says('test ! -e "$PMR_IMDS"', on=TWO) == ""
    on.host.power_off(ONE)
    assert on.says('cat "$PMR_IMDS"') == "the first"
    on.host.destroy(ONE)
    assert on.says('test ! -e "$PMR_IMDS"') == ""


def test_power_off_ends_what_is_running(on: Guests) -> None:
    running = [on.start("sleep 60"), on.start("kill -STOP $$")]
    pause(0.3)
    on.host.power_off(ONE)
    assert [one.wait(10).exit_code for one in running] == [137, 137]


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("shutdown -h now", "poweroff"),
        ("shutdown now", "poweroff"),
        ("shutdown -r now", "reboot"),
        ("poweroff", "poweroff"),
        ("reboot", "reboot"),
        ("systemctl poweroff", "poweroff"),
        ("halt", "halt"),
        ("systemctl halt", "halt"),
        ("halt -p", "poweroff"),
        ("sudo -n shutdown -P now", "poweroff"),
    ],
)
def test_shutdown_stands_in_and_tells(on: Guests, words: str, kind: str) -> None:
    told: list[tuple[str, str]] = []
    on.host.on_shutdown(lambda instance_id, what: told.append((instance_id, what)))
    on.says(words)
    soon(lambda: told)
    assert told == [(ONE, kind)]


def test_shutdown_later_can_be_cancelled(on: Guests) -> None:
    told: list[str] = []
    on.host.on_shutdown(lambda _instance_id, what: told.append(what))
    on.says("shutdown -P +1; shutdown -c")
    assert on.run("shutdown -P sometime").exit_code == 1
    pause(0.2)
    assert told == []


@pytest.mark.parametrize("name", ["dnf", "apt-get", "mkfs", "mount", "iptables"])
def test_what_touches_the_machine_is_refused(on: Guests, name: str) -> None:
    ended = on.run(f"{name} --help")
    assert (ended.exit_code, ended.stderr.decode()) == (
        1,
        f"{name}: not available on a local instance\n",
    )


def test_sudo_runs_the_command_as_it_is(on: Guests) -> None:
    assert on.says("sudo -n -u root A=1 sh -c 'echo $A $1' x 'b c'") == "1 b c"
    assert on.says("systemd-run --quiet --scope -p A=b -- echo 'b c'") == "b c"


def test_users(on: Guests) -> None:
    if not on.nested:
        # Plain processes have the user's own rights.
        assert on.says("id -u") == str(os.geteuid())
        return
    assert on.says("id -u; id -un; stat -c %U /root /var/lib/pmr") == "0\nroot\nroot\nroot"
    if not is_root():
        # One user of the machine gives one user to the instance.
        assert on.run("id ec2-user").exit_code == 1
        return
    switch = "setpriv --reuid ec2-user --regid ec2-user --init-groups"
    assert on.says(f"{switch} sh -c 'id -un; touch ~ec2-user/x && stat -c %U ~ec2-user/x'") == (
        "ec2-user\nec2-user"
    )
    assert on.run(f"{switch} touch /var/lib/pmr/x").exit_code == 1
    assert on.says(
        "touch /var/tmp/x; chown ec2-user:ec2-user /var/tmp/x; stat -c %G /var/tmp/x"
    ) == ("ec2-user")
