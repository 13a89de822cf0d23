"""`report.html`, the report as one self-contained page."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lore.data.messages import text_of
from lore.errors import MissingExtra
from lore.evaluation.plots import plots
from lore.evaluation.summary import (
    SETTINGS,
    ReportStatistics,
    Summary,
    headline,
    headline_setting,
    headline_users,
)
from lore.evaluation.sweep import Result, Sweep

_TEMPLATE = Path(__file__).with_name("report.html")
_CONTROLS = ("wrong_user", "shuffled", "length")

_EXCERPT = 320

_SHOWN = 3


def require_plotting() -> None:
    """Check that a report can be drawn.

    Raises:
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    for package in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "report")


def report_html(summary: Summary) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    sweep, parts = summary.sweep, summary.split.parts()
    settings = [name for name in SETTINGS if len(parts[name])]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=summary.title,
        headline=headline(sweep),
        explanation=_explanation(summary),
        counts=_count_tiles(summary),
        settings=[
            {
                "label": SETTINGS[name][0],
                "meaning": SETTINGS[name][1],
                "users": int((parts[name].counts > 0).sum()),
                "pairs": f"{len(parts[name]):,}",
            }
            for name in settings
        ],
        rows=list(_rows(sweep, settings)),
        plots=plots(sweep, summary.statistics, settings),
        statistics=list(_sentences(summary.statistics, headline_users(sweep))),
        controls=list(_control_lines(sweep)),
        directions=list(_directions(summary)),
        redacted=summary.texts is None,
        warnings=summary.warnings,
        made=_made(summary),
    )


def _explanation(summary: Summary) -> str:
    chosen = summary.sweep.chosen
    kind = f"{chosen.basis.family} model of rank {chosen.basis.rank}"
    how = "All choices of strength and rank were made inside the training part."
    if chosen.validation is None:
        how = "Nothing was chosen by validation: strengths are as given, and the highest rank is shown."
    return (
        f"The {kind} against pooled Bradley-Terry, one reward for all users, on held-out groups of "
        f"{summary.sweep.per_user.users} users, in one random split. {how}"
    )


def _count_tiles(summary: Summary) -> list[tuple[str, str]]:
    counts = summary.counts
    tiles = [
        ("users", f"{counts['users']:,}"),
        ("ratings" if counts["ratings"] else "comparisons", f"{counts['comparisons']:,}"),
        ("responses", f"{counts['responses']:,}"),
        ("pairs dropped", f"{summary.split.dropped:,}"),
    ]
    if counts["disagreement"] is not None:
        tiles.append(("two users disagree", f"{counts['disagreement']:.0%}"))
    return tiles


def _made(summary: Summary) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in summary.encoder.items())
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in summary.seconds.items())
    return f"LoRe {summary.version}, seed {summary.config.get('seed')}. Encoder: {versions}. Time: {seconds}."


def _label(result: Result) -> str:
    names = {
        "reference": "reference (the reward model's own head)",
        "pooled": "pooled, one model for all",
        "per_user": "per user, own comparisons alone",
        "wrong_user": "control: another user's weights",
        "shuffled": "control: shuffled choices",
        "length": "control: the longer response",
    }
    return names.get(result.model, f"{result.model}, {f'rank {result.rank}' if result.rank else 'no tastes found'}")


def _rows(sweep: Sweep, settings: Sequence[str]) -> Iterator[dict[str, Any]]:
    rows: dict[tuple[str, int | None], dict[str, Result]] = {}
    for result in sweep.results:
        if result.shots is None:
            rows.setdefault((result.model, result.rank), {})[result.setting] = result
    chosen = sweep.chosen.basis
    for (model, rank), cells in rows.items():
        yield {
            "label": _label(next(iter(cells.values()))),
            "chosen": (model, rank) == (chosen.family, chosen.rank),
            "cells": [cells.get(setting) for setting in settings],
        }


def _sentences(statistics: ReportStatistics, users: str) -> Iterator[str]:
    """Yield sentences on what lies behind the mean."""
    counts = statistics.verdicts.counts()
    tested = sum(counts.values())
    if tested:
        yield (
            f"Of {tested} {users}, personalizing surely helps {counts['helps']}, surely hurts {counts['hurts']}, and "
            f"of {counts['undecided']} it cannot be told (at most {statistics.verdicts.rate:.0%} of these verdicts are "
            "expected to be wrong)."
        )
        pooled, chosen = (f"{100 * value:.1f} %" for value in statistics.worst)
        yield f"The tenth that is predicted worst: {chosen} right, {pooled} by pooled (each model's own worst)."
    for what, moved in (("user", statistics.users), ("group", statistics.groups)):
        if np.isfinite(moved.low):
            yield (
                f"With any one {what} left out of the test, the gain is between {100 * moved.low:+.1f} and "
                f"{100 * moved.high:+.1f} points."
            )
    if statistics.curve is not None:
        curve = statistics.curve
        yield (
            f"With {curve.shots} comparisons of a new user, twice what the median one has, a gain of "
            f"{100 * curve.gain:+.1f} points is predicted ({100 * curve.low:+.1f} to {100 * curve.high:+.1f})."
        )
    entropy = statistics.collapse.weight_entropy
    yield (
        f"Rewards of users differ along {statistics.collapse.effective_rank:.1f} directions (effective rank); the two "
        f"that are most alike have a cosine of {statistics.collapse.largest_cosine:.2f}"
        + (f", and weights {entropy:.0%} of the entropy of equal ones." if entropy is not None else ".")
    )
    noise = statistics.noise
    noisier, steadier = int((noise.low > 1).sum()), int((noise.high < 1).sum())
    yield (
        f"Users choose {noise.median:.2f} times as noisily as the model says in the median; {noisier} surely more "
        f"noisily and {steadier} surely less than it says"
        + (f". They call it a tie with a propensity of {noise.tie:.2f} (Davidson)." if noise.tie > 0 else ".")
    )


def _control_lines(sweep: Sweep) -> Iterator[str]:
    meanings = {
        "wrong_user": "With another user's weights, accuracy should fall to that of pooled or below",
        "shuffled": "Learned from choices that a coin made, accuracy should be within ten points of 50 %",
        "length": "If the longer response always won, accuracy would be",
    }
    for result in sweep.results:
        if result.model in _CONTROLS and result.setting == headline_setting(sweep):
            interval = f"; 95 % interval {result.low:.1%} to {result.high:.1%}" if np.isfinite(result.low) else ""
            passed = "" if result.model == "length" else f" {'It does.' if _passes(result) else 'It does not.'}"
            gained = (
                f", {100 * (result.gain or 0.0):+.1f} points against pooled" if result.model == "wrong_user" else ""
            )
            measured = f"{result.accuracy:.1%}{gained} ({SETTINGS[result.setting][0]}{interval})"
            yield f"{meanings[result.model]}: {measured}.{passed}"


def _passes(control: Result) -> bool:
    """Return True if the interval of a control does not contradict what is expected of it."""
    if control.model == "wrong_user":
        return not (control.gain_low or 0.0) > 0
    return not (control.low > 0.6 or control.high < 0.4)  # one draw of coins strays further than its interval says


def _directions(summary: Summary) -> Iterator[dict[str, Any]]:
    """Yield the responses that each direction sets apart from the population's reward; at most eight directions."""
    if summary.texts is None or summary.pairs is None:
        return
    basis, weights = summary.sweep.chosen.basis, summary.sweep.chosen.weights
    vectors = summary.pairs.vectors
    rewards = basis.coordinates(vectors)
    if basis.family == "simplex":
        rewards = rewards - rewards @ basis.population.to(rewards)[:, None]
    for column in range(min(basis.rank, 8)):
        order = rewards[:, column].argsort(descending=True).tolist()
        texts = [text_of(summary.texts.conversation(row)[1]).strip() for row in order]
        distinct = list(dict.fromkeys(text for text in texts if text))
        share = f"{float(weights[:, column].mean()):.0%} of the weights" if basis.family == "simplex" else ""
        yield {
            "share": share,
            "most": [_excerpt(text) for text in distinct[:_SHOWN]],
            "least": [_excerpt(text) for text in distinct[::-1][:_SHOWN]],
        }


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 1].rstrip() + "…"
