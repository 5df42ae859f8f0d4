"""Count the tokens and the identifiers of the standard library, whole or in parts.

    count_tokens.py split FOLDER PARTS    write one script per part, and FOLDER.list with all files
    count_tokens.py compare RESULTS LIST  merge what the parts printed, and count all of it again
    count_tokens.py slowest RESULTS       show the tasks that took longest, from joblog.tsv

Each script that `split` writes is this very file with the names of its own Python files after it,
so that it needs nothing but a Python.
"""

from __future__ import annotations

import csv
import json
import keyword
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from pathlib import Path
from typing import NoReturn

# What `split` appends to a script sets this: the part's name and its files.
PART: tuple[str, list[str]] | None = None


class Count:
    """How often each kind of token and each identifier occurs, and what could not be read."""

    def __init__(self) -> None:
        self.files = 0
        self.kinds: Counter[str] = Counter()
        self.identifiers: Counter[str] = Counter()
        self.broken: dict[str, str] = {}

    def read(self, path: str) -> None:
        """Add one file; a file that does not tokenise counts as that, and for nothing else."""
        kinds: Counter[str] = Counter()
        identifiers: Counter[str] = Counter()
        self.files += 1
        try:
            with Path(path).open("rb") as source:
                for token in tokenize.tokenize(source.readline):
                    kinds[tokenize.tok_name[token.exact_type]] += 1
                    if token.type == tokenize.NAME and not keyword.iskeyword(token.string):
                        identifiers[token.string] += 1
        except (SyntaxError, tokenize.TokenError, UnicodeDecodeError) as error:
            self.broken[path] = type(error).__name__
            return
        self.kinds += kinds
        self.identifiers += identifiers

    def add(self, part: dict[str, object]) -> None:
        """Add what `to_json` of another count gave."""
        values = json.loads(json.dumps(part))
        self.files += values["files"]
        self.kinds.update(values["kinds"])
        self.identifiers.update(values["identifiers"])
        self.broken.update(values["broken"])

    def to_json(self) -> dict[str, object]:
        """Return everything that was counted; two equal counts give equal values."""
        return {
            "files": self.files,
            "kinds": dict(sorted(self.kinds.items())),
            "identifiers": dict(sorted(self.identifiers.items())),
            "broken": dict(sorted(self.broken.items())),
        }

    def __str__(self) -> str:
        total, different = sum(self.identifiers.values()), len(self.identifiers)
        return (
            f"{self.files} files, {sum(self.kinds.values()):,} tokens, "
            f"{total:,} identifiers ({different:,} different), "
            f"{len(self.broken)} files that do not tokenise"
        )


def count(files: list[str]) -> Count:
    """Count the given files, one after the other."""
    result = Count()
    for file in files:
        result.read(file)
    return result


def standard_library() -> list[Path]:
    """Return every Python file of this Python's own library, the largest first."""
    library = Path(sysconfig.get_path("stdlib"))
    foreign = {"site-packages", "dist-packages"}
    files = [
        path
        for path in library.rglob("*.py")
        if path.is_file() and not foreign.intersection(path.relative_to(library).parts)
    ]
    return sorted(files, key=lambda path: (-path.stat().st_size, path))


def split(folder: Path, parts: int) -> None:
    """Write one self-contained script per part, of about the same size each."""
    files = [str(path) for path in standard_library()]
    program = Path(__file__).read_text()
    start = "if __name__ =="
    folder.mkdir()
    for number in range(parts):
        name = f"part-{number:02}"
        own = f"PART = ({name!r}, {files[number::parts]!r})\n\n"
        head, _, tail = program.rpartition(start)
        script = folder / name
        script.write_text(f"#!{sys.executable}\n{head}{own}{start}{tail}")
        script.chmod(0o755)
    folder.with_suffix(".list").write_text("\n".join(files) + "\n")
    print(f"{len(files)} files of {sysconfig.get_path('stdlib')} in {parts} scripts")


def print_part(name: str, files: list[str]) -> None:
    """Print the count of one part as JSON, then a line for people."""
    result = count(files)
    print(json.dumps(result.to_json(), separators=(",", ":")))
    print(f"{name}: {result}")


def merge(results: Path) -> tuple[int, Count]:
    """Add up what the parts printed; return how many there were, too."""
    merged = Count()
    logs = sorted(results.rglob("*.log"))
    for log in logs:
        line = next((text for text in log.read_text().splitlines() if text.startswith("{")), None)
        if line is None:
            fail(f"{log} holds no count")
        merged.add(json.loads(line))
    return len(logs), merged


def compare(results: Path, listed: Path) -> None:
    """Show what the parts found together, and that one process finds the same."""
    parts, merged = merge(results)
    started_s = time.monotonic()
    alone = count(listed.read_text().splitlines())
    took_s = time.monotonic() - started_s
    print(f"{parts} parts, merged:    {merged}")
    print(f"one process, {took_s:4.1f} s:  {alone}")
    for path, problem in sorted(merged.broken.items()):
        print(f"  does not tokenise: {path} ({problem})")
    for title, counted in (("tokens", merged.kinds), ("identifiers", merged.identifiers)):
        top = ", ".join(f"{name} {number:,}" for name, number in counted.most_common(6))
        print(f"most frequent {title}: {top}")
    if not alone.kinds or merged.to_json() != alone.to_json():
        fail("NOT EQUAL: " + "; ".join(differences(merged, alone)))
    print("EQUAL: the merged results and the single process found the same.")


def differences(merged: Count, alone: Count) -> list[str]:
    """Name the first few things that two counts do not agree on."""
    found = [] if merged.files == alone.files else [f"files {merged.files}, {alone.files} alone"]
    for mine, other in ((merged.kinds, alone.kinds), (merged.identifiers, alone.identifiers)):
        names = sorted(name for name in mine | other if mine[name] != other[name])
        found += [f"{name} {mine[name]}, {other[name]} alone" for name in names[:3]]
    if merged.broken != alone.broken:
        found.append("the files that do not tokenise")
    return found or ["nothing was counted"]


def slowest(results: Path) -> None:
    """Show the five tasks that took longest, and check that every task ended with 0."""
    with (results / "joblog.tsv").open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    if not rows:
        fail("joblog.tsv names no task")
    bad = [row["Command"] for row in rows if row["Exitval"] != "0" or row["Signal"] != "0"]
    if bad:
        fail(f"these tasks did not end with exit code 0: {', '.join(bad)}")
    print("SECONDS  HOST        TASK")
    for row in sorted(rows, key=lambda row: -float(row["JobRuntime"]))[:5]:
        print(f"{float(row['JobRuntime']):7.2f}  {row['Host']:10}  {row['Command']}")


def fail(why: str) -> NoReturn:
    """End with exit code 1 and a reason."""
    sys.exit(f"error: {why}")


def main() -> None:
    """Do what the words of the command line say."""
    match sys.argv[1:]:
        case []:
            if PART is None:
                sys.exit(__doc__)
            print_part(*PART)
        case ["split", folder, parts]:
            split(Path(folder), int(parts))
        case ["compare", results, listed]:
            compare(Path(results), Path(listed))
        case ["slowest", results]:
            slowest(Path(results))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
