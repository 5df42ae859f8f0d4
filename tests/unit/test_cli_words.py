"""The words of the command line: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click
import pytest

from poormanray import cli
from poormanray.cli.inputs import Program
from poormanray.cli.options import (
    COUNT,
    DURATION,
    KEY_VALUE,
    SIZE,
    TIME_LIMIT,
    App,
    Percent,
    aws_options,
    cluster_option,
    instance_option,
    owner_option,
)
from poormanray.cli.output import Output
from poormanray.cli.rules import RuleWords, load_word
from poormanray.cli.working import JobWords
from poormanray.errors import UsageProblem
from poormanray.manifest import Rules


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("30m", 1800), ("1h30m", 5400), ("2d", 172_800), ("250ms", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["-1", "0", "0s", "", "soon", "1h-5m", "nan", "inf", "5 m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(click.BadParameter):
        DURATION.convert(text, None, None)


def test_time_limits() -> None:
    assert TIME_LIMIT.convert("30m", None, None) == 1800
    assert TIME_LIMIT.convert(" 200% ", None, None) == Percent(200)
    for text in ("100%", "0%", "-200%", "1.5%", "%", "2%0", "soon", "0"):
        with pytest.raises(click.BadParameter):
            TIME_LIMIT.convert(text, None, None)


def test_a_run_has_no_median() -> None:
    asked = JobWords("", Percent(200), 120, None, None, (), (), "", "")
    with pytest.raises(UsageProblem, match="median"):
        asked.work("run", Program((b"true",)), print)
    assert asked.work("map", Program((b"true",)), print).timeout_s == 0


@pytest.mark.parametrize(
    ("text", "word"), [("8", "800"), ("1.5", "150"), ("0.05", "5"), ("0", "0"), ("75%", "75%")]
)
def test_loads(text: str, word: str) -> None:
    assert load_word(text) == word


@pytest.mark.parametrize("text", ["", "-1", "1e3", "nan", "1.234", "5%%", "x"])
def test_no_loads(text: str) -> None:
    with pytest.raises(click.BadParameter):
        load_word(text)


def test_rules_for_the_instances() -> None:
    words = RuleWords("150", 1025)
    assert words.rules(retries=2, timeout=Percent(300)) == Rules(2, "150", 2, 300)
    assert RuleWords().rules(retries=0, timeout=5.0) == Rules()


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", ""])
def test_no_counts(text: str) -> None:
    with pytest.raises(click.BadParameter):
        COUNT.convert(text, None, None)
    assert COUNT.convert("12", None, None) == 12


@pytest.mark.parametrize(
    ("text", "size"), [("500", 500), ("64k", 65_536), ("1.5M", 1_572_864), ("2GiB", 2_147_483_648)]
)
def test_sizes(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


@pytest.mark.parametrize("text", ["", "-5", "5x", "k"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(click.BadParameter):
        SIZE.convert(text, None, None)


def test_pairs() -> None:
    assert KEY_VALUE.convert("A=b=c d", None, None) == ("A", "b=c d")
    assert KEY_VALUE.convert("A=", None, None) == ("A", "")
    for text in ("A", "=b", "1A=b", "a-b=c", "A=\0"):
        with pytest.raises(click.BadParameter):
            KEY_VALUE.convert(text, None, None)


Seen = dict[str, object]


@pytest.fixture
def parse() -> Callable[..., Seen]:
    """Return a function that runs words through a command with all shared options."""
    seen: Seen = {}

    @click.group()
    @click.option("--local", is_flag=True, envvar="PMR_LOCAL")
    def root(local: bool) -> None:
        pass

    @root.command()
    @cluster_option
    @instance_option
    @owner_option
    @aws_options
    def show(app: App, /, **words: object) -> None:
        seen.update(words, app=app)

    def run(*words: str, before: tuple[str, ...] = ()) -> Seen:
        root.main([*before, "show", *words], standalone_mode=False)
        return seen

    return run


def test_a_command_gets_its_app_and_its_own_words_only(parse: Callable[..., Seen]) -> None:
    seen = parse("-n", "demo", "-i", "i-1", "-i", "i-2", "-o", "ann", "--json")
    app = seen.pop("app")
    assert seen == {"name": "demo", "instance_ids": ("i-1", "i-2"), "owner": "ann"}
    assert isinstance(app, App)
    assert app.out.json
    assert not app.local


def test_local_is_heard_before_and_after_the_command_and_from_the_environment(
    parse: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    def local(*words: str, before: tuple[str, ...] = ()) -> bool:
        app = parse("-n", "demo", *words, before=before)["app"]
        assert isinstance(app, App)
        return app.local

    assert not local()
    assert local("--local")
    assert local(before=("--local",))
    monkeypatch.setenv("PMR_LOCAL", "1")
    assert local()


def test_a_profile_has_no_place_on_the_local_cloud(parse: Callable[..., Seen]) -> None:
    with pytest.raises(UsageProblem, match="--profile"):
        parse("-n", "demo", "--profile", "mine", "--local")


def test_the_cluster_may_come_from_the_environment(
    parse: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMR_CLUSTER", "from-there")
    assert parse()["name"] == "from-there"


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "é", "x" * 101, "a\n", "a;b", "$(x)"])
def test_names_with_other_characters_are_refused(parse: Callable[..., Seen], name: str) -> None:
    with pytest.raises(click.BadParameter):
        parse("--name", name)


@pytest.mark.parametrize("region", ["US-EAST-1", "us east 1", "", "localhost", "x.com/"])
def test_regions_with_other_characters_are_refused(parse: Callable[..., Seen], region: str) -> None:
    with pytest.raises(click.BadParameter):
        parse("-n", "demo", "--region", region)


def test_the_next_command_is_for_the_same_cloud() -> None:
    def said(*, region: str | None = None, profile: str | None = None, local: bool = False) -> str:
        app = App(out=Output(), region=region, profile=profile, local=local)
        return app.command_line("logs", "-f", "job", "-o", "a b")

    assert said() == "pmr logs -f job -o 'a b'"
    assert said(local=True) == "pmr logs -f job -o 'a b' --local"
    chosen = "-r eu-west-1 --profile 'my work'"
    assert said(region="eu-west-1", profile="my work") == f"pmr logs -f job -o 'a b' {chosen}"


# The only words that may be empty, with the reason.
MAY_BE_EMPTY = {
    ("pmr run", "words"): "after the program's name: an argument of that program",
    ("pmr map", "words"): "after the program's name: its argument, or an entry",
    ("pmr ssh", "words"): "whatever the words are, the answer is what to use instead",
}
# What else a command cannot be parsed without.
NEEDED = {
    "pmr results": ["--output", "out"],
    "pmr retry": ["--name", "demo", "last"],
}


def every_command(
    command: click.Command = cli.pmr, path: str = "pmr"
) -> Iterator[tuple[str, click.Command]]:
    """Yield each command that does something, with the words that lead to it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in cli.COMMANDS if command is cli.pmr else command.commands:
        found = command.get_command(click.Context(command), name)
        assert found is not None
        yield from every_command(found, f"{path} {name}")


def _with_values() -> Iterator[tuple[str, click.Parameter, str]]:
    """Yield each parameter that takes a value, with its command and its name in an error."""
    for path, command in every_command():
        context = click.Context(command)
        for parameter in command.params:
            flag = isinstance(parameter, click.Option) and (parameter.is_flag or parameter.count)
            if not flag:
                yield path, parameter, parameter.get_error_hint(context)


WITH_VALUES = list(_with_values())


def ended(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = cli._outcome(words)
    return int(code), capsys.readouterr().err


@pytest.mark.parametrize("blank", ["", "  ", "\t\n"])
@pytest.mark.parametrize(
    ("path", "parameter", "hint"), WITH_VALUES, ids=lambda one: getattr(one, "name", None)
)
def test_an_empty_word_is_never_a_name(
    path: str,
    parameter: click.Parameter,
    hint: str,
    blank: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = parameter.opts[-1]
    words = path.split()[1:]
    if isinstance(parameter, click.Option):
        code, told = ended([*words, name, blank], capsys)
        assert ended([*words, f"{name}={blank}"], capsys) == (code, told)
    else:
        needed = [one for one in NEEDED.get(path, []) if (parameter.name, one) != ("job", "last")]
        code, told = ended([*words, *needed, blank], capsys)
    assert code == 2
    if path != "pmr ssh":
        assert f"Invalid value for {hint}: the word is empty" in told


def test_the_walk_over_all_parameters_meets_them() -> None:
    found = {(path, parameter.opts[-1]) for path, parameter, _ in WITH_VALUES}
    assert len(found) > 100
    expected = {("pmr jobs", "--job"), ("pmr cancel", "job"), ("pmr local fault clear", "rule_id")}
    assert expected <= found
    assert MAY_BE_EMPTY.keys() <= found


def test_an_argument_of_a_program_may_be_empty() -> None:
    def words_of(name: str, *words: str) -> object:
        root = click.Context(cli.pmr)
        command = cli.pmr.get_command(root, name)
        assert command is not None
        return command.make_context(name, ["-n", "c", *words], parent=root).params["words"]

    assert words_of("run", "--", "grep", "", "file") == ("grep", "", "file")
    assert words_of("map", "--", "x", "", ":::", "", "a") == ("x", "", ":::", "", "a")
    for name in ("run", "map"):
        with pytest.raises(click.BadParameter, match="is empty"):
            words_of(name, "--", "  ", "x")


def test_an_empty_variable_counts_as_unset(
    parse: Callable[..., Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PMR_CLUSTER", "")
    with pytest.raises(click.MissingParameter, match="name"):
        parse()
    assert parse("-n", "demo")["name"] == "demo"
    monkeypatch.setenv("PMR_CLUSTER", "  ")
    with pytest.raises(click.BadParameter, match="not a cluster name"):
        parse()


@pytest.mark.parametrize("option", ["-j", "-a", "--colsep", "--joblog", "--retry-failed", "-X"])
def test_options_of_gnu_parallel_are_answered(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = ended(["map", "-n", "c", option, "4", "echo", "{}", ":::", "a"], capsys)
    assert code == 2
    assert f"{option} is an option of GNU parallel" in told
    assert "  next: " in told


@pytest.mark.parametrize("word", ["echo", "~nobody-at-all/key", "x" * 5000])
def test_a_key_file_is_one(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = ended(["map", "-n", "c", "-k", word, "{}", ":::", "a"], capsys)
    assert code == 2
    assert "there is no file " in told
    assert "  next: leave -k out" in told


def test_every_command_prints_json() -> None:
    without = [
        path
        for path, command in every_command()
        # It says what to use instead, and does nothing.
        if path != "pmr ssh" and not any("--json" in one.opts for one in command.params)
    ]
    assert without == []
