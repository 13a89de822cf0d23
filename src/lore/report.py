"""What was found, honestly: `report.json` for machines and one self-contained `report.html` for people."""

import importlib.util
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lore.calibration import Calibration, calibration, probabilities
from lore.diagnostics import Collapse, LearningCurve, collapse, learning_curve
from lore.errors import MissingExtra
from lore.evaluate import Accuracy, Gain, Result, Sweep, correct, gain
from lore.files import write_json, write_text
from lore.noise import Noise, learn_noise
from lore.pairs import Pairs, Split
from lore.personalize import fit_weights
from lore.preferences import Preferences, text_of
from lore.significance import Sensitivity, Verdicts, verdicts, without_one_group, without_one_user, worst_tenth

SETTINGS = {
    "seen_train": ("seen, train", "what the basis was learned from"),
    "seen_test": ("seen, test", "the same people on held-out groups"),
    "unseen_shots": ("unseen, shots", "new people on the few comparisons they were learned from"),
    "unseen_test": ("unseen, test", "new people on held-out groups"),
}
_CONTROLS = ("wrong_user", "shuffled", "length")
_BLUE, _ORANGE, _GREY = "#2563a8", "#c2562d", "#8a94a3"
_SHOWN_GAIN = 5e-4  # half of the last digit of a gain: less is shown as 0.0
_EXCERPT = 320
_SHOWN = 3


@dataclass(frozen=True)
class Summary:
    """All that a report tells.

    Attributes:
        title: of the data.
        split: the four parts.
        sweep: results and fits.
        counts: from `lore check`.
        warnings: from `lore check`.
        encoder: fingerprint.
        config: the arguments of the run.
        seconds: spent in each phase.
        version: of LoRe.
        texts: conversations, for the directions; None if they are to stay out of the report.
        pairs: whose rows are these conversations.
    """

    title: str
    split: Split
    sweep: Sweep
    counts: dict[str, Any]
    warnings: list[str]
    encoder: dict[str, Any]
    config: dict[str, Any]
    seconds: dict[str, float]
    version: str
    texts: Preferences | None = None
    pairs: Pairs | None = field(default=None, repr=False)


def require_plotting() -> None:
    """Refuse early where a report could not be drawn.

    Raises:
        MissingExtra: matplotlib or jinja2 is not installed.
    """
    for package in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "report")


def finding(sweep: Sweep) -> str:
    """One plain sentence: whether personalizing helps, whom, and by how much."""
    whom = _whom(sweep)
    found = headline(sweep)
    if not np.isfinite(found.low):
        return f"Whether personalizing helps {whom} cannot be told from so few ({found.users}); it takes five or more."
    interval = f"{100 * found.mean:+.1f} points (95 % interval {100 * found.low:+.1f} to {100 * found.high:+.1f})"
    if found.low > _SHOWN_GAIN and (others := _gain_of_others(sweep)) > 0:
        return (
            f"The model for {whom} is {interval} better than one model for all, but not because it is personal: "
            f"with another person's weights it is better by {100 * others:.1f} points as well."
        )
    if found.low > _SHOWN_GAIN:
        return f"Personalizing helps {whom} by {interval} over one model for all."
    if found.high < -_SHOWN_GAIN:
        return f"Personalizing hurts {whom}: {interval} against one model for all."
    return f"Personalizing does not measurably help {whom}: {interval} against one model for all."


def _whom(sweep: Sweep) -> str:
    return "new people" if _has_unseen(sweep) else "the people it learned from"


def _gain_of_others(sweep: Sweep) -> float:
    """Gain over pooled with another person's weights, if certain and half of that with one's own, else 0."""
    setting = _setting(sweep)
    control = [result for result in sweep.results if result.model == "wrong_user" and result.setting == setting]
    if not control or not (control[0].gain_low or 0.0) > 0:
        return 0.0
    others = control[0].gain or 0.0
    return others if others >= headline(sweep).mean / 2 else 0.0


def _setting(sweep: Sweep) -> str:
    """The setting of the headline."""
    return "unseen_test" if _has_unseen(sweep) else "seen_test"


def headline(sweep: Sweep) -> Gain:
    """Gain of the chosen model over pooled, on held-out groups."""
    return gain(sweep.per_user, sweep.baseline)


def _has_unseen(sweep: Sweep) -> bool:
    return any(result.setting == "unseen_test" for result in sweep.results)


@dataclass(frozen=True)
class Rigour:
    """What the headline's held-out choices say beyond its mean.

    Attributes:
        calibrations: of pooled and of the chosen model.
        verdicts: whom personalizing helps.
        worst: mean accuracy of the tenth of the people whom pooled, and the chosen model, predict worst.
        users: the gain with one person left out.
        groups: the gain with one group left out.
        curve: what more comparisons of a new person would bring, where that can be told.
        collapse: how many directions the chosen model uses.
        noise: how consistently people choose, beside what the chosen model says.
    """

    calibrations: dict[str, Calibration]
    verdicts: Verdicts
    worst: tuple[float, float]
    users: Sensitivity
    groups: Sensitivity
    curve: LearningCurve | None
    collapse: Collapse
    noise: Noise


def rigour(split: Split, sweep: Sweep) -> Rigour:
    """Measured on held-out groups, with the weights of pooled and of the chosen model at their best."""
    trained, test = (
        (split.unseen_shots, split.unseen_test) if _has_unseen(sweep) else (split.seen_train, split.seen_test)
    )
    pooled = next(fit for fit in sweep.fits if fit.basis.rank == 1 and fit.basis.family == "simplex")
    named = {"pooled": pooled.basis, sweep.chosen.basis.family: sweep.chosen.basis}
    people = {name: fit_weights(trained, basis) for name, basis in named.items()}
    chances = [probabilities(test, basis, people[name]) for name, basis in named.items()]
    common, personal = (correct(test, chance - 1 / 2) for chance in (chances[0], chances[-1]))
    return Rigour(
        calibrations={name: calibration(test, basis, people[name]) for name, basis in named.items()},
        verdicts=verdicts(test, chances[-1], chances[0]),
        worst=(worst_tenth(sweep.baseline), worst_tenth(sweep.per_user)),
        users=without_one_user(sweep.per_user, sweep.baseline),
        groups=without_one_group(test, personal - common),
        curve=learning_curve(_by_shots(sweep, trained), sweep.baseline) if sweep.by_shots else None,
        collapse=collapse(sweep.chosen, split.seen_train),
        noise=learn_noise(test, torch.logit(chances[-1], eps=1e-12)),
    )


def _by_shots(sweep: Sweep, trained: Pairs) -> dict[int, Accuracy]:
    """Accuracy by how many comparisons a person is known; all that the median one has among the numbers."""
    most = int(trained.counts.double().median())
    return sweep.by_shots if most <= max(sweep.by_shots) else {**sweep.by_shots, most: sweep.per_user}


def write_report(folder: Path, summary: Summary) -> None:
    """Write `report.json` and `report.html` into a folder, each whole or not at all."""
    beyond = rigour(summary.split, summary.sweep)
    write_text(folder / "report.html", _html(summary, beyond))
    write_json(folder / "report.json", report_json(summary, beyond))


def report_json(summary: Summary, beyond: Rigour) -> dict[str, Any]:
    """The content of `report.json` (docs/commands.md)."""
    found = headline(summary.sweep)
    return {
        "lore": summary.version,
        "finding": finding(summary.sweep),
        "gain": {
            "mean": _finite(found.mean),
            "low": _finite(found.low),
            "high": _finite(found.high),
            "users": found.users,
        },
        "data": {**summary.counts, "split": summary.split.to_json()["pairs"], "dropped": summary.split.dropped},
        "warnings": summary.warnings,
        "encoder": summary.encoder,
        "config": summary.config,
        **_rigour_json(beyond),
        "chosen": {"family": summary.sweep.chosen.basis.family, "rank": summary.sweep.chosen.basis.rank},
        "fits": [
            {
                "rank": fit.basis.rank,
                "family": fit.basis.family,
                "strength": fit.strength,
                "weight_strength": fit.weight_strength,
                "validation": fit.validation,
                "objective": fit.objective,
                "gap": _finite(fit.gap),
                "converged": fit.converged,
            }
            for fit in summary.sweep.fits
        ],
        "results": [
            {name: _finite(value) if isinstance(value, float) else value for name, value in result.to_json().items()}
            for result in summary.sweep.results
        ],
        "seconds": summary.seconds,
    }


def _rigour_json(found: Rigour) -> dict[str, Any]:
    """The parts of `report.json` that `rigour` measures."""
    log_odds = found.verdicts.log_odds[found.verdicts.log_odds.isfinite()]
    return {
        "calibration": {name: _calibration_json(one) for name, one in found.calibrations.items()},
        "people": {
            **found.verdicts.counts(),
            "false_discovery_rate": found.verdicts.rate,
            "odds_above_one": int((log_odds > 0).sum()),
            "odds_above_ten": int((log_odds > math.log(10)).sum()),
            "odds_below_a_tenth": int((log_odds < -math.log(10)).sum()),
            "worst_tenth": {"pooled": _finite(found.worst[0]), "chosen": _finite(found.worst[1])},
        },
        "sensitivity": {
            "without_one_user": {"low": _finite(found.users.low), "high": _finite(found.users.high)},
            "without_one_group": {"low": _finite(found.groups.low), "high": _finite(found.groups.high)},
        },
        "learning_curve": None if found.curve is None else asdict(found.curve),
        "collapse": asdict(found.collapse),
        "noise": {
            "median": found.noise.median,
            "spread": found.noise.spread,
            "tie": found.noise.tie,
            "noisier": int((found.noise.low > 1).sum()),
            "steadier": int((found.noise.high < 1).sum()),
        },
    }


def _calibration_json(found: Calibration) -> dict[str, Any]:
    columns = (found.predicted, found.observed, found.low, found.high, found.count)
    return {
        "error": found.error,
        "brier": found.brier,
        "log_loss": found.log_loss,
        "bins": [
            dict(zip(("predicted", "observed", "low", "high", "count"), row, strict=True))
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ],
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN: what is not known is null."""
    return value if np.isfinite(value) else None


# --- the page -----------------------------------------------------------------------------------------------------


def _html(summary: Summary, beyond: Rigour) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lore"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    sweep, parts = summary.sweep, summary.split.parts()
    settings = [name for name in SETTINGS if len(parts[name])]
    return environment.get_template("report.html").render(
        title=summary.title,
        finding=finding(sweep),
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
        plots=_plots(summary.sweep, beyond, settings),
        beyond=list(_beyond(beyond, whom=_whom(sweep))),
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
        f"The {kind} against pooled Bradley-Terry, one reward for everybody, on held-out groups of "
        f"{summary.sweep.per_user.users} people, in one random split. {how}"
    )


def _count_tiles(summary: Summary) -> list[tuple[str, str]]:
    counts = summary.counts
    tiles = [
        ("people", f"{counts['users']:,}"),
        ("ratings" if counts["ratings"] else "comparisons", f"{counts['comparisons']:,}"),
        ("responses", f"{counts['responses']:,}"),
        ("pairs dropped", f"{summary.split.dropped:,}"),
    ]
    if counts["disagreement"] is not None:
        tiles.append(("two people disagree", f"{counts['disagreement']:.0%}"))
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


def _beyond(found: Rigour, whom: str) -> Iterator[str]:
    """Sentences on what lies behind the mean."""
    counts = found.verdicts.counts()
    tested = sum(counts.values())
    if tested:
        yield (
            f"Of {tested} {whom}, personalizing surely helps {counts['helps']}, surely hurts {counts['hurts']}, and "
            f"of {counts['undecided']} it cannot be told (at most {found.verdicts.rate:.0%} of these verdicts are "
            "expected to be wrong)."
        )
        pooled, chosen = (f"{100 * value:.1f} %" for value in found.worst)
        yield f"The tenth that is predicted worst: {chosen} right, {pooled} by pooled (each model's own worst)."
    for what, moved in (("person", found.users), ("group", found.groups)):
        if np.isfinite(moved.low):
            yield (
                f"With any one {what} left out of the test, the gain is between {100 * moved.low:+.1f} and "
                f"{100 * moved.high:+.1f} points."
            )
    if found.curve is not None:
        curve = found.curve
        yield (
            f"With {curve.shots} comparisons of a new person, twice what the median one has, a gain of "
            f"{100 * curve.gain:+.1f} points is predicted ({100 * curve.low:+.1f} to {100 * curve.high:+.1f})."
        )
    entropy = found.collapse.weight_entropy
    yield (
        f"People's rewards differ along {found.collapse.effective_rank:.1f} directions (effective rank); the two that "
        f"are most alike have a cosine of {found.collapse.largest_cosine:.2f}"
        + (f", and weights {entropy:.0%} of the entropy of equal ones." if entropy is not None else ".")
    )
    noise = found.noise
    noisier, steadier = int((noise.low > 1).sum()), int((noise.high < 1).sum())
    yield (
        f"People choose {noise.median:.2f} times as noisily as the model says in the median; {noisier} surely more "
        f"noisily and {steadier} surely less than it says"
        + (f". They call it a tie with a propensity of {noise.tie:.2f} (Davidson)." if noise.tie > 0 else ".")
    )


def _control_lines(sweep: Sweep) -> Iterator[str]:
    meanings = {
        "wrong_user": "With another person's weights, accuracy should fall to that of pooled or below",
        "shuffled": "Learned from choices that a coin made, accuracy should be within ten points of 50 %",
        "length": "If the longer response always won, accuracy would be",
    }
    for result in sweep.results:
        if result.model in _CONTROLS and result.setting == _setting(sweep):
            interval = f"; 95 % interval {result.low:.1%} to {result.high:.1%}" if np.isfinite(result.low) else ""
            passed = "" if result.model == "length" else f" {'It does.' if _passes(result) else 'It does not.'}"
            gained = (
                f", {100 * (result.gain or 0.0):+.1f} points against pooled" if result.model == "wrong_user" else ""
            )
            found = f"{result.accuracy:.1%}{gained} ({SETTINGS[result.setting][0]}{interval})"
            yield f"{meanings[result.model]}: {found}.{passed}"


def _passes(control: Result) -> bool:
    """Whether the interval of a control does not contradict what is expected of it."""
    if control.model == "wrong_user":
        return not (control.gain_low or 0.0) > 0
    return not (control.low > 0.6 or control.high < 0.4)  # one draw of coins strays further than its interval says


def _directions(summary: Summary) -> Iterator[dict[str, Any]]:
    """The responses that each direction sets apart from the population's reward; at most eight directions."""
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


# --- plots --------------------------------------------------------------------------------------------------------


def _plots(sweep: Sweep, beyond: Rigour, settings: Sequence[str]) -> dict[str, str]:
    return {
        "rank": _rank_plot(sweep, settings),
        "gain": _gain_plot(sweep, settings),
        "shots": _shots_plot(sweep, beyond.curve),
        "people": _people_plot(sweep),
        "map": _map_plot(sweep),
        "calibration": _calibration_plot(beyond.calibrations),
    }


def _calibration_plot(calibrations: Mapping[str, Calibration]) -> str:
    """How often the likelier answer was given, against how likely it was said to be."""
    figure, axes = _new_axes()
    axes.plot([0.5, 1], [0.5, 1], color=_GREY, linewidth=1, linestyle=":")
    for (name, found), color in zip(calibrations.items(), (_GREY, _BLUE), strict=False):
        spread = torch.stack([found.observed - found.low, found.high - found.observed]).clamp(min=0)
        label = f"{name}: error {found.error:.3f}, Brier {found.brier:.3f}, log loss {found.log_loss:.3f}"
        style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 1}
        axes.errorbar(found.predicted, found.observed, yerr=spread, label=label, **style)
    axes.set_xlabel("probability of the likelier answer, as predicted")
    axes.set_ylabel("share of choices that were so")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return _svg(figure)


def _new_axes(width: float = 5.2, height: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Any) -> str:
    """The figure as an `svg` element; texts stay texts, and nothing depends on the time of day."""
    import matplotlib as mpl

    target = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lore", "font.family": "sans-serif"}):
        figure.savefig(target, format="svg", metadata={"Date": None}, transparent=True)
    return target.getvalue()[target.getvalue().index("<svg") :]


_STYLES = {
    "seen_train": (_GREY, ":", "o"),
    "seen_test": (_BLUE, "-", "o"),
    "unseen_shots": (_GREY, "--", "s"),
    "unseen_test": (_ORANGE, "-", "s"),
}


def _rank_plot(sweep: Sweep, settings: Sequence[str]) -> str:
    figure, axes = _new_axes()
    fitted = [
        result
        for result in sweep.results
        if result.shots is None and result.model in ("reference", "pooled", "simplex", "gaussian")
    ]
    ranks = sorted({(result.model != "reference", result.model == "gaussian", result.rank or 0) for result in fitted})
    places = {key: place for place, key in enumerate(ranks)}
    for setting in settings:
        found = [result for result in fitted if result.setting == setting]
        x = [places[result.model != "reference", result.model == "gaussian", result.rank or 0] for result in found]
        y = np.array([100 * result.accuracy for result in found])
        error = np.array([[100 * (r.accuracy - r.low), 100 * (r.high - r.accuracy)] for r in found]).T
        color, line, marker = _STYLES[setting]
        axes.errorbar(x, y, error, color=color, linestyle=line, marker=marker, capsize=3, label=SETTINGS[setting][0])
    axes.set_xticks(range(len(ranks)), [_rank_name(key) for key in ranks])
    axes.set_xlabel("rank")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return _svg(figure)


def _rank_name(key: tuple[bool, bool, int]) -> str:
    fitted, gaussian, rank = key
    if not fitted:
        return "reference"
    return f"gaussian {rank}" if gaussian else "pooled" if rank == 1 else str(rank)


def _gain_plot(sweep: Sweep, settings: Sequence[str]) -> str:
    tested = [setting for setting in settings if setting.endswith("test")]
    shown = [
        result
        for result in sweep.results
        if result.shots is None and result.gain is not None and result.setting in tested and result.model != "shuffled"
    ]
    labels = list(dict.fromkeys(_short(result) for result in shown))
    figure, axes = _new_axes(height=0.5 + 0.42 * max(len(labels), 3))
    axes.grid(axis="y", visible=False)
    axes.axvline(0, color="#1c2430", linewidth=0.8)
    for number, setting in enumerate(tested):
        found = [result for result in shown if result.setting == setting]
        x = np.array([100 * (result.gain or 0.0) for result in found])
        ends = np.array([[100 * (r.gain_low or 0.0), 100 * (r.gain_high or 0.0)] for r in found]).T
        y = [labels.index(_short(result)) + 0.24 * (number - 0.5) for result in found]
        color, _, marker = _STYLES[setting]
        axes.errorbar(x, y, xerr=np.abs(ends - x), fmt=marker, color=color, capsize=3, label=SETTINGS[setting][0])
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("gain over pooled, points")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    return _svg(figure)


def _short(result: Result) -> str:
    return (
        f"{result.model} {result.rank}" if result.model in ("simplex", "gaussian") else result.model.replace("_", " ")
    )


def _shots_plot(sweep: Sweep, curve: LearningCurve | None) -> str:
    found = [result for result in sweep.results if result.shots is not None]
    if not found:
        return ""
    figure, axes = _new_axes()
    points = [(result.shots or 0, result.accuracy, result.low, result.high) for result in found]
    if curve is not None and curve.shots > 2 * points[-1][0]:  # all that people have
        points.append((curve.shots // 2, sweep.per_user.mean, sweep.per_user.low, sweep.per_user.high))
    shots = [count for count, *_ in points]
    y = np.array([100 * mean for _, mean, _, _ in points])
    error = np.array([[100 * (mean - low), 100 * (high - mean)] for _, mean, low, high in points]).T
    axes.errorbar(
        shots, y, error, color=_ORANGE, marker="s", capsize=3, label=f"{found[0].model}, rank {found[0].rank}"
    )
    pooled = next(r for r in sweep.results if r.model == "pooled" and r.setting == "unseen_test")
    axes.axhline(100 * pooled.accuracy, color=_GREY, linestyle="--", label="pooled")
    if curve is not None:
        along = np.geomspace(shots[0], curve.shots)
        expected = pooled.accuracy + curve.most * along / (along + curve.half)
        axes.plot(along, 100 * expected, color=_ORANGE, linestyle=":", linewidth=1)
        ends = 100 * np.array([[curve.gain - curve.low], [curve.high - curve.gain]])
        at = 100 * (pooled.accuracy + curve.gain)
        style = {"color": _ORANGE, "marker": "s", "markerfacecolor": "white", "linestyle": "none", "capsize": 3}
        axes.errorbar([curve.shots], [at], ends, label="predicted", **style)
        shots.append(curve.shots)
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.minorticks_off()
    axes.set_xlabel("comparisons of a new person")
    axes.set_ylabel("accuracy, %")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return _svg(figure)


def _people_plot(sweep: Sweep) -> str:
    difference = 100 * (sweep.per_user.per_user - sweep.baseline.per_user)
    values = difference[difference.isfinite()].numpy()
    figure, axes = _new_axes()
    edges = np.linspace(-1, 1, 26) * max(float(np.abs(values).max(initial=0.0)), 1.0)
    kinds = {"worse": (values < 0, _ORANGE), "same": (values == 0, _GREY), "better": (values > 0, _BLUE)}
    axes.hist(
        [values[own] for own, _ in kinds.values()],
        bins=edges,
        stacked=True,
        color=[color for _, color in kinds.values()],
        label=[f"{kind}: {own.sum()} people" for kind, (own, _) in kinds.items()],
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("gain over pooled, points")
    axes.set_ylabel("people")
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    return _svg(figure)


def _map_plot(sweep: Sweep) -> str:
    weights = sweep.chosen.weights.double()
    if weights.shape[1] < 2 or len(weights) < 3:
        return ""
    centered = weights - weights.mean(0)
    places = centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:2].T
    figure, axes = _new_axes()
    strongest = weights[:, : max(sweep.chosen.basis.rank, 1)].argmax(1)
    axes.scatter(places[:, 0], places[:, 1], c=strongest, cmap="tab10", vmin=0, vmax=9, s=14, alpha=0.8, linewidths=0)
    axes.set_xlabel("first component")
    axes.set_ylabel("second component")
    return _svg(figure)
