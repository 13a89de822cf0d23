"""`report.html`, the report as one self-contained page."""

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lore.data.messages import text_of
from lore.errors import MissingExtra
from lore.evaluation.cautions import cautions, controls
from lore.evaluation.evaluator import Model, Result, model_of
from lore.evaluation.finding import USERS_OF
from lore.evaluation.plots import plots
from lore.evaluation.sentences import model_label, trust_sentences, user_sentences
from lore.evaluation.summary import SETTINGS, Summary
from lore.evaluation.sweep import Sweep

_TEMPLATE = Path(__file__).with_name("report.html")
_COLUMNS = ("unseen_test", "seen_test", "unseen_shots", "seen_train")  # settings, the most telling first
_EXCERPT = 320  # characters of a response
_SHOWN = 3  # responses at each end of a direction
_DIRECTIONS = 8
_LISTED = 200  # users
_ALIKE = 0.95  # correlation of rewards from which on two directions are one
_WEIGHED = 0.005  # share of the weights below which a direction is not used


def require_plotting() -> None:
    """Check that a report can be drawn.

    Raises:
        MissingExtra: a package of the extra `report` is not installed.
    """
    for package in ("matplotlib", "jinja2", "markdown_it"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "report")


def report_html(summary: Summary) -> str:
    """Return the page."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    sweep, parts = summary.sweep, summary.split.parts()
    settings = [name for name in _COLUMNS if len(parts[name])]
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=summary.title,
        headline=summary.finding.headline,
        cautions=list(cautions(sweep, summary.finding)),
        explanation=_explanation(summary),
        counts=_count_tiles(summary),
        settings=[
            {
                "label": SETTINGS[name][0],
                "meaning": SETTINGS[name][1],
                "counted": _counted(sweep, name),
            }
            for name in settings
        ],
        rows=list(_rows(sweep, settings)),
        reachable=f"{100 * summary.statistics.reachable:.1f} %",
        plots=plots(sweep, summary.statistics, settings, has_tastes=summary.finding.has_tastes),
        controls=[control.sentence for control in controls(sweep)],
        trust=list(trust_sentences(summary)),
        users=list(user_sentences(summary)),
        user_rows=_user_rows(summary),
        directions=list(_directions(summary)),
        redacted=summary.texts is None,
        warnings=summary.warnings,
        layers=_layers(summary),
        made=_made(summary),
    )


def _explanation(summary: Summary) -> str:
    chosen = summary.sweep.chosen
    if summary.finding.splits > 1:
        how = f"Both are means over {summary.finding.splits} splits into training and test."
    else:
        how = (
            "This is one random split. On the data sets in docs/results.md another moves the gain by a point or more. "
            "To average several: --splits 5."
        )
    if not summary.finding.has_tastes:
        return (
            "On choices held out, the best personal model predicts what pooled Bradley-Terry, one model for all, does."
        )
    chose = "Strength and rank were chosen inside the training part."
    if chosen.validation is None:
        chose = "Strengths are as given, and the highest rank is shown."
    groups = len(summary.finding.groups)
    sure = "The interval holds with 95 %" if groups == 1 else "The intervals hold together with 95 %"
    return (
        f"Compared on choices held out: the {chosen.basis.family} model of rank {chosen.basis.rank}, and pooled "
        f"Bradley-Terry, one model for all. {sure}; they allow for other users and other prompts. {chose} {how}"
    )


def _counted(sweep: Sweep, setting: str) -> str:
    result = sweep.result("pooled", setting)
    if result is None:
        return ""
    left_out = f"; {result.left_out:,} with fewer are left out" if result.left_out else ""
    return f"{result.users:,} users, {result.pairs:,} pairs{left_out}"


def _count_tiles(summary: Summary) -> list[tuple[str, str]]:
    counts, split = summary.counts, summary.split
    tiles = [
        ("users", f"{counts['users']:,}"),
        ("ratings" if counts["ratings"] else "comparisons", f"{counts['comparisons']:,}"),
        ("responses", f"{counts['responses']:,}"),
        ("users learned from", f"{int((split.seen_train.counts > 0).sum()):,}"),
        *((f"{USERS_OF[group.setting]} tested", f"{group.gain.users:,}") for group in summary.finding.groups),
        ("pairs dropped", f"{split.dropped:,}"),
    ]
    if counts["disagreement"] is not None:
        tiles.append(("two users disagree", f"{counts['disagreement']:.0%}"))
    return tiles


def _made(summary: Summary) -> str:
    versions = ", ".join(f"{name} {value}" for name, value in summary.encoder.items())
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in summary.seconds.items())
    return f"LoRe {summary.version}, seed {summary.config.get('seed')}. Encoder: {versions}. Time: {seconds}."


def _layers(summary: Summary) -> list[list[str]]:
    """Return the cells of the table of layers that were tried, the best first."""
    tried = sorted(summary.layers, key=lambda one: one["log_loss"])
    names = {"last": "last token", "response": "mean over the response"}
    return [
        [
            "the last, normed" if one["layer"] is None else str(one["layer"]),
            names[one["pooling"]],
            f"{one['log_loss']:.4f}",
        ]
        for one in tried
    ]


def _rows(sweep: Sweep, settings: Sequence[str]) -> Iterator[dict[str, Any]]:
    rows: dict[tuple[Model, int | None], dict[str, Result]] = {}
    for result in sweep.results:
        if result.shots is None:
            rows.setdefault((result.model, result.rank), {})[result.setting] = result
    losses = {(model_of(fit), fit.basis.rank): fit.validation for fit in sweep.fits}
    for (model, rank), cells in rows.items():
        loss = losses.get((model, rank or 0))
        yield {
            "label": model_label(model, rank),
            "chosen": (model, rank) == (sweep.chosen_model, sweep.chosen.basis.rank),
            "loss": "" if loss is None else f"{loss:.4f}",
            "cells": [cells.get(setting) for setting in settings],
        }


def _user_rows(summary: Summary) -> list[list[str]]:
    """Return the cells of the table of users, at most 200 of them; the rest is in `users.csv`."""
    redact = bool(summary.config.get("redact"))
    return [
        [
            f"user {number}" if redact else row.user,
            "new" if row.is_new else "seen",
            f"{row.learned_from:,}",
            f"{row.tested_on:,}",
            f"{100 * row.accuracy:.1f} %",
            f"{100 * row.pooled:.1f} %",
            f"{100 * row.gain:+.1f}",
            row.verdict,
        ]
        for number, row in enumerate(summary.statistics.users[:_LISTED], 1)
    ]


def _directions(summary: Summary) -> Iterator[dict[str, Any]]:
    """Yield the responses that each direction sets apart from the population's reward; at most eight directions.

    Directions that say the same are shown once, with the weights of all; those that no user weighs are left out.
    """
    if summary.texts is None or summary.pairs is None or not summary.finding.has_tastes:
        return
    basis, weights = summary.sweep.chosen.basis, summary.sweep.chosen.weights
    rewards = basis.coordinates(summary.pairs.vectors)[:, : basis.rank]
    share = None
    if basis.family == "simplex":
        rewards = rewards - basis.coordinates(summary.pairs.vectors) @ basis.population.to(rewards)[:, None]
        share = weights.double().mean(0)
    for column, total in distinct_directions(rewards, share)[:_DIRECTIONS]:
        order = rewards[:, column].argsort(descending=True).tolist()
        texts = [text_of(summary.texts.conversation(row)[1]).strip() for row in order]
        distinct = list(dict.fromkeys(text for text in texts if text))
        yield {
            "share": "" if share is None else f"{total:.0%} of the weights",
            "most": [rendered(text) for text in distinct[:_SHOWN]],
            "least": [rendered(text) for text in distinct[::-1][:_SHOWN]],
        }


def distinct_directions(rewards: Tensor, share: Tensor | None) -> list[tuple[int, float]]:
    """Return the columns that differ from those before them, each with the share of the weights of all that it is.

    Args:
        rewards: of responses along each direction, `[rows, rank]`.
        share: of the weights, `[rank]`; None if a direction has none (gaussian family).
    """
    centered = torch.nn.functional.normalize((rewards - rewards.mean(0)).double(), dim=0)
    alike = (centered.T @ centered).abs() > _ALIKE
    totals: dict[int, float] = {}
    for column in range(rewards.shape[1]):
        weight = 1.0 if share is None else float(share[column])
        first = next((other for other in totals if bool(alike[column, other])), column)
        totals[first] = totals.get(first, 0.0) + weight
    return [(column, total) for column, total in totals.items() if total >= _WEIGHED]


def rendered(text: str) -> str:
    """Return Markdown as HTML, cut at a word; its own HTML is shown as text, and it can load and link to nothing."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark", {"html": False}).disable(["image", "link", "autolink", "reference"])
    return str(markdown.render(_excerpt(text)))


def _excerpt(text: str) -> str:
    if len(text) <= _EXCERPT:
        return text
    return text[: _EXCERPT - 1].rsplit(None, 1)[0].rstrip() + "…"
