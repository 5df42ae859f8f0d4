"""A job as one page that opens without a network: who ran what and when, and what failed.

Nothing in it is a script, and all that comes from tasks and instances is escaped.
"""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from poormanray.jobs.outcome import Outcome
from poormanray.ledger import TaskState, ended_counts

WIDTH, LABEL, AXIS, TOP = 1160, 130, 22, 8
# Together the slots are about so high, each within these bounds.
HEIGHT, THINNEST, THICKEST = 620, 3.0, 18.0
TICKS = 8
BINS = 24
MOST_GROUPS, MOST_NAMED = 40, 12
COLUMNS = (
    "task",
    "name",
    "attempt",
    "instance",
    "slot",
    "state",
    "exit_code",
    "reason",
    "started_at",
    "ended_at",
    "duration_s",
)
COLOURS = {
    TaskState.SUCCEEDED: "#2e7d4f",
    TaskState.FAILED: "#c0392b",
    TaskState.TIMEOUT: "#d6850f",
    TaskState.CANCELLED: "#7f8c8d",
    TaskState.LOST: "#6c3483",
    TaskState.RUNNING: "#2874a6",
    TaskState.PENDING: "#c8ced3",
}
_STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; color: #1c2429; margin: 24px auto; width: 1180px; }
h1 { font-size: 20px; margin: 0 0 4px } h2 { font-size: 15px; margin: 26px 0 8px }
.facts { color: #56636b } .legend span { margin-right: 16px }
.legend i { display: inline-block; width: 11px; height: 11px; margin-right: 5px }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: 3px 12px 3px 0; border-bottom: 1px solid #e3e7ea }
td.n, th.n { text-align: right } .line { width: 40% }
code { font: 12px ui-monospace, monospace; overflow-wrap: anywhere }
"""
_NUMBERS = re.compile(r"\d+")
# What XML cannot hold at all.
_NO_XML = re.compile(r"[^\t\n -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Bar:
    """A task's time in a slot, in seconds from the first start of all."""

    outcome: Outcome
    from_s: float
    upto_s: float


def text(words: object) -> str:
    """Return words as a page may hold them."""
    return html.escape(_NO_XML.sub("\ufffd", str(words)))


def bars(found: Sequence[Outcome]) -> list[Bar]:
    """Return the times of all tasks that have started; what still runs lasts up to the newest."""
    timed = [(one, one.status.started_at) for one in found]
    begun = [(one, began) for one, began in timed if began is not None]
    if not begun:
        return []
    first = min(began for _, began in begun)
    last = max(max(began, one.status.ended_at or began) for one, began in begun)
    return [
        Bar(one, began - first, max(began, one.status.ended_at or last) - first)
        for one, began in begun
    ]


def _seconds(seconds: float) -> str:
    if seconds < 60:  # noqa: PLR2004 (a minute)
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


# --- pictures ----------------------------------------------------------------------------------


def gantt_svg(drawn: Sequence[Bar]) -> str:
    """Return a picture of all slots over time, a bar for each task's newest attempt."""
    slots = sorted({(bar.outcome.host.name, bar.outcome.status.slot) for bar in drawn})
    rows = {slot: number for number, slot in enumerate(slots)}
    thick = min(THICKEST, max(THINNEST, HEIGHT / max(1, len(slots))))
    # Clocks tell milliseconds: less than one is none.
    end_s = max(1e-3, max((bar.upto_s for bar in drawn), default=0.0) or 1.0)
    scale = (WIDTH - LABEL - 10) / end_s
    high = TOP + thick * len(slots) + AXIS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{high:.0f}" '
        f'viewBox="0 -{TOP} {WIDTH} {high:.0f}" font-family="sans-serif" font-size="11">',
        f'<rect y="-{TOP}" width="{WIDTH}" height="{high:.0f}" fill="#ffffff"/>',
        *_labels(slots, thick),
        *_axis(end_s, scale, thick * len(slots)),
    ]
    for bar in drawn:
        one = bar.outcome
        top = thick * rows[one.host.name, one.status.slot]
        wide = max(0.6, (bar.upto_s - bar.from_s) * scale)
        told = f"{one.task} {one.name}: {one.state.value}, {_seconds(bar.upto_s - bar.from_s)}"
        parts.append(
            f'<rect x="{LABEL + bar.from_s * scale:.1f}" y="{top + thick * 0.08:.1f}" '
            f'width="{wide:.1f}" height="{thick * 0.84:.1f}" fill="{COLOURS[one.state]}" '
            f'stroke="#fff" stroke-width=".3"><title>{text(told)}</title></rect>'
        )
    return "\n".join([*parts, "</svg>"])


def _labels(slots: Sequence[tuple[str, int]], thick: float) -> list[str]:
    """Return the name of each instance beside its first slot, where there is room for it."""
    parts, free_y = [], 0.0
    for number, (name, _) in enumerate(slots):
        is_first = number == 0 or slots[number - 1][0] != name
        y = number * thick + min(thick, 12.0) * 0.8
        if is_first and y >= free_y:
            short = name if len(name) <= 20 else f"…{name[-19:]}"  # noqa: PLR2004 (what fits)
            parts.append(
                f'<text x="{LABEL - 8}" y="{y:.1f}" text-anchor="end">{text(short)}</text>'
            )
            free_y = y + 11
    return parts


def _axis(end_s: float, scale: float, bottom: float) -> list[str]:
    step = 10 ** math.floor(math.log10(end_s / TICKS))
    step *= next(factor for factor in (1, 2, 5, 10) if end_s / (step * factor) <= TICKS)
    parts = []
    for number in range(int(end_s / step) + 1):
        x = LABEL + number * step * scale
        parts.append(f'<path d="M{x:.1f} 0V{bottom:.1f}" stroke="#dde2e6" stroke-width="1"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15:.1f}" text-anchor="middle" fill="#56636b">'
            f"{_seconds(number * step)}</text>"
        )
    return parts


def durations_svg(drawn: Sequence[Bar]) -> str:
    """Return a picture of how long tasks took: how many, over the time on a logarithmic axis."""
    took = [max(1e-3, bar.upto_s - bar.from_s) for bar in drawn]
    if not took:
        return ""
    low, high = math.log10(min(took)), math.log10(max(took))
    span = max(high - low, 0.1)
    counts = [0] * BINS
    for seconds in took:
        counts[min(BINS - 1, int((math.log10(seconds) - low) / span * BINS))] += 1
    wide, tall = (WIDTH - 20) / BINS, 110.0
    parts = [
        f'<svg width="{WIDTH}" height="{tall + 34:.0f}" font-family="sans-serif" font-size="11">'
    ]
    for number, count in enumerate(counts):
        x, top = 10 + number * wide, 14 + tall * (1 - count / max(counts))
        middle = x + wide / 2
        if count:
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{top:.1f}" width="{wide - 2:.1f}" '
                f'height="{14 + tall - top:.1f}" fill="#2874a6"/>'
                f'<text x="{middle:.1f}" y="{top - 3:.1f}" text-anchor="middle">{count}</text>'
            )
        if number % 3 == 0:
            at = 10 ** (low + span * number / BINS)
            parts.append(
                f'<text x="{x:.1f}" y="{tall + 29:.1f}" fill="#56636b">{_seconds(at)}</text>'
            )
    return "\n".join([*parts, "</svg>"])


# --- tables ------------------------------------------------------------------------------------


def failure_groups(
    found: Sequence[Outcome], last_lines: Mapping[int, str]
) -> list[tuple[str, list[Outcome]]]:
    """Return what did not succeed by how it ended, most first: its reason, or its last line.

    Lines that differ in numbers only are of one group, which is told by its first one.
    """
    groups: dict[tuple[TaskState, int | None, str], list[Outcome]] = defaultdict(list)
    shown: dict[tuple[TaskState, int | None, str], str] = {}
    for one in found:
        if one.state.ended and one.state is not TaskState.SUCCEEDED:
            line = last_lines.get(one.task) or one.why or "(it wrote nothing)"
            key = (one.state, one.status.exit_code, _NUMBERS.sub("0", line))
            groups[key].append(one)
            shown.setdefault(key, line)
    return [(shown[key], groups[key]) for key in sorted(groups, key=lambda key: -len(groups[key]))]


def _failures(found: Sequence[Outcome], last_lines: Mapping[int, str]) -> str:
    rows = []
    groups = failure_groups(found, last_lines)
    for line, group in groups[:MOST_GROUPS]:
        named = ", ".join(one.name for one in group[:MOST_NAMED])
        more = f" and {len(group) - MOST_NAMED} more" if len(group) > MOST_NAMED else ""
        code = group[0].status.exit_code
        rows.append(
            f'<tr><td class="n">{len(group)}</td><td>{group[0].state.value}</td>'
            f'<td class="n">{"" if code is None else code}</td><td><code>{text(line)}</code></td>'
            f"<td>{text(named)}{more}</td></tr>"
        )
    if not rows:
        return "<p>Nothing failed.</p>"
    left = len(groups) - MOST_GROUPS
    head = (
        '<th class="n">tasks</th><th>state</th><th class="n">code</th>'
        '<th class="line">last line</th><th>which</th>'
    )
    rest = f"<p>and {left} further kinds</p>" if left > 0 else ""
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>{rest}"


def _instances(found: Sequence[Outcome], drawn: Sequence[Bar], slots: Mapping[str, int]) -> str:
    end_s = max((bar.upto_s for bar in drawn), default=0.0)
    bars_of: dict[str, list[Bar]] = defaultdict(list)
    states_of: dict[str, list[TaskState]] = defaultdict(list)
    for bar in drawn:
        bars_of[bar.outcome.host.name].append(bar)
    for one in found:
        states_of[one.host.name].append(one.state)
    rows = []
    for name, states in sorted(states_of.items()):
        own = bars_of[name]
        good = states.count(TaskState.SUCCEEDED)
        bad = sum(state.ended for state in states) - good
        busy_s = sum(bar.upto_s - bar.from_s for bar in own)
        room_s = end_s * max(1, slots.get(name, 1))
        last_s = max((bar.upto_s for bar in own), default=0.0)
        rows.append(
            f'<tr><td>{text(name)}</td><td class="n">{slots.get(name, 0) or "-"}</td>'
            f'<td class="n">{good}</td><td class="n">{bad}</td>'
            f'<td class="n">{100 * busy_s / room_s if room_s else 0:.0f} %</td>'
            f'<td class="n">{_seconds(last_s)}</td></tr>'
        )
    names = ("slots", "succeeded", "other ends", "in use", "last end")
    head = "".join(f'<th class="n">{one}</th>' for one in names)
    return f"<table><tr><th>instance</th>{head}</tr>{''.join(rows)}</table>"


# --- whole files -------------------------------------------------------------------------------


def report_html(
    title: str,
    found: Sequence[Outcome],
    *,
    slots: Mapping[str, int],
    last_lines: Mapping[int, str],
) -> str:
    """Return the whole page; `slots` are by instance name, `last_lines` by task."""
    counts = {state: n for state, n in ended_counts(one.status for one in found).items() if n}
    drawn = bars(found)
    end_s = max((bar.upto_s for bar in drawn), default=0.0)
    busy_s = sum(bar.upto_s - bar.from_s for bar in drawn)
    room_s = end_s * sum(slots.values())
    used = (
        f", {100 * busy_s / room_s:.0f} % of {sum(slots.values())} slots in use" if room_s else ""
    )
    legend = "".join(
        f'<span><i style="background:{COLOURS[state]}"></i>{n:,} {state.value}</span>'
        for state, n in counts.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{_STYLE}</style></head><body>
<h1>{text(title)}</h1>
<p class="facts">{len(found):,} tasks, {_seconds(end_s)} from first start to last end{used}</p>
<p class="legend">{legend}</p>
<h2>What did not succeed</h2>{_failures(found, last_lines)}
<h2>Slots over time</h2>{gantt_svg(drawn)}
<h2>How long tasks took</h2>{durations_svg(drawn)}
<h2>Instances</h2>{_instances(found, drawn, slots)}
</body></html>
"""


def report_csv(found: Sequence[Outcome]) -> str:
    """Return a table of all tasks: times in epoch seconds by the instance's clock."""
    out = io.StringIO()
    # Else a carriage return in a name would end a row.
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    for one in found:
        status = one.status
        began, ended = status.started_at, status.ended_at
        took = None if status.took_s is None else round(status.took_s, 3)
        writer.writerow(
            [
                *(one.task, one.name, status.attempt, one.host.name, status.slot),
                *(one.state.value, status.exit_code, one.why, began, ended, took),
            ]
        )
    return out.getvalue()
