"""The plots of the report, as SVG."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lore.evaluation.calibration import Calibration
from lore.evaluation.diagnostics import LearningCurve
from lore.evaluation.evaluator import Result
from lore.evaluation.sentences import model_label
from lore.evaluation.summary import SETTINGS, ReportStatistics
from lore.evaluation.sweep import Sweep

_BLUE, _ORANGE, _GREY = "#2563a8", "#c2562d", "#8a94a3"


def plots(sweep: Sweep, statistics: ReportStatistics, settings: Sequence[str], *, has_tastes: bool) -> dict[str, str]:
    """Return the plots of a report by name, each an `svg` element; empty where there is nothing to show."""
    return {
        "rank": _rank_plot(sweep, settings),
        "gain": _gain_plot(sweep, settings),
        "shots": _shots_plot(sweep, statistics.curve) if has_tastes else "",
        "users": _users_plot(sweep),
        "map": _map_plot(sweep) if has_tastes else "",
        "calibration": _calibration_plot(statistics.calibrations),
    }


def _calibration_plot(calibrations: Mapping[str, Calibration]) -> str:
    """Plot how often the likelier answer was given, against its predicted probability."""
    figure, axes = _new_axes()
    axes.plot([0.5, 1], [0.5, 1], color=_GREY, linewidth=1, linestyle=":")
    for (name, measured), color in zip(calibrations.items(), (_GREY, _BLUE), strict=False):
        spread = torch.stack([measured.observed - measured.low, measured.high - measured.observed]).clamp(min=0)
        label = f"{name}: error {measured.error:.3f}, Brier {measured.brier:.3f}, log loss {measured.log_loss:.3f}"
        style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 1}
        axes.errorbar(measured.predicted, measured.observed, yerr=spread, label=label, **style)
    axes.set_xlabel("probability of the likelier answer, as predicted")
    axes.set_ylabel("share of choices that were so")
    _legend(figure, columns=1)
    return _svg(figure)


def _new_axes(width: float = 5.2, height: float = 3.4) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6eaef", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _errors(middle: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the lengths of error bars, `[2, points]`, from their ends `[points, 2]`."""
    return np.abs(ends - middle[:, None]).T


def _legend(figure: Any, columns: int = 2) -> None:
    """Show the legend above the plot, where it covers nothing."""
    figure.legend(frameon=False, fontsize=8, loc="outside upper left", ncols=columns)


def _svg(figure: Any) -> str:
    """Return the figure as an `svg` element; texts stay texts, and nothing depends on the time of day."""
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
    ranks = sorted({_position(result) for result in fitted})
    for setting in settings:
        color, line, marker = _STYLES[setting]
        style = {"color": color, "linestyle": line, "marker": marker, "capsize": 3}
        label: str | None = SETTINGS[setting][0]
        for family in range(3):  # no curve runs from one kind of model to another
            results = [one for one in fitted if one.setting == setting and _position(one)[0] == family]
            results.sort(key=_position)
            if results:
                x = [ranks.index(_position(result)) for result in results]
                y = np.array([100 * result.accuracy for result in results])
                error = _errors(y, np.array([[100 * r.low, 100 * r.high] for r in results]))
                axes.errorbar(x, y, error, label=label, **style)
                label = None
    axes.set_xticks(range(len(ranks)), [_rank_name(key) for key in ranks])
    axes.set_xlabel("rank")
    axes.set_ylabel("accuracy, %")
    _legend(figure)
    return _svg(figure)


def _position(result: Result) -> tuple[int, int]:
    """Return the kind of a model, 0 for the reference, 1 for pooled and simplex, 2 for gaussian, and its rank."""
    kind = {"reference": 0, "gaussian": 2}.get(result.model, 1)
    return kind, result.rank or 0


def _rank_name(position: tuple[int, int]) -> str:
    kind, rank = position
    if kind == 0:
        return "reference"
    return f"gaussian {rank}" if kind > 1 else "pooled" if rank == 1 else str(rank)


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
        results = [result for result in shown if result.setting == setting]
        x = np.array([100 * (result.gain or 0.0) for result in results])
        ends = np.array([[100 * (r.gain_low or 0.0), 100 * (r.gain_high or 0.0)] for r in results])
        y = [labels.index(_short(result)) + 0.24 * (number - 0.5) for result in results]
        color, _, marker = _STYLES[setting]
        axes.errorbar(x, y, xerr=_errors(x, ends), fmt=marker, color=color, capsize=3, label=SETTINGS[setting][0])
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("gain over pooled, points")
    _legend(figure)
    return _svg(figure)


def _short(result: Result) -> str:
    """Return the label of a model as tables have it, without what stands before the colon."""
    return model_label(result.model, result.rank).split(": ")[-1].split(" (")[0]


def _shots_plot(sweep: Sweep, curve: LearningCurve | None) -> str:
    results = [result for result in sweep.results if result.shots is not None]
    if not results:
        return ""
    figure, axes = _new_axes()
    points = [(result.shots or 0, result.accuracy, result.low, result.high) for result in results]
    if curve is not None and curve.shots > 2 * points[-1][0]:  # all that users have
        points.append((curve.shots // 2, sweep.per_user.mean, sweep.per_user.low, sweep.per_user.high))
    shots = [count for count, *_ in points]
    y = np.array([100 * mean for _, mean, _, _ in points])
    error = _errors(y, np.array([[100 * low, 100 * high] for *_, low, high in points]))
    axes.errorbar(
        shots, y, error, color=_ORANGE, marker="s", capsize=3, label=f"{results[0].model}, rank {results[0].rank}"
    )
    pooled = next(r for r in sweep.results if r.model == "pooled" and r.setting == "unseen_test")
    axes.axhline(100 * pooled.accuracy, color=_GREY, linestyle="--", label="pooled")
    if curve is not None:
        along = np.geomspace(shots[0], curve.shots)
        expected = pooled.accuracy + curve.max_gain * along / (along + curve.half)
        axes.plot(along, 100 * expected, color=_ORANGE, linestyle=":", linewidth=1)
        ends = 100 * np.array([[curve.gain - curve.low], [curve.high - curve.gain]])
        predicted = 100 * (pooled.accuracy + curve.gain)
        style = {"color": _ORANGE, "marker": "s", "markerfacecolor": "white", "linestyle": "none", "capsize": 3}
        axes.errorbar([curve.shots], [predicted], ends, label="predicted", **style)
        shots.append(curve.shots)
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(count) for count in shots])
    axes.minorticks_off()
    axes.set_xlabel("comparisons of a new user")
    axes.set_ylabel("accuracy, %")
    _legend(figure)
    return _svg(figure)


def _users_plot(sweep: Sweep) -> str:
    difference = 100 * (sweep.per_user.per_user - sweep.baseline.per_user)
    values = difference[torch.from_numpy(sweep.baseline.sample.is_counted)].numpy()
    figure, axes = _new_axes()
    edges = np.linspace(-1, 1, 26) * max(float(np.abs(values).max(initial=0.0)), 1.0)
    kinds = {"worse": (values < 0, _ORANGE), "same": (values == 0, _GREY), "better": (values > 0, _BLUE)}
    axes.hist(
        [values[mask] for mask, _ in kinds.values()],
        bins=edges,
        stacked=True,
        color=[color for _, color in kinds.values()],
        label=[f"{kind}: {mask.sum()} user{'' if mask.sum() == 1 else 's'}" for kind, (mask, _) in kinds.items()],
    )
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("gain over pooled, points")
    axes.set_ylabel("users")
    _legend(figure)
    return _svg(figure)


def _map_plot(sweep: Sweep) -> str:
    weights = sweep.chosen.weights.double()
    if weights.shape[1] < 2 or len(weights) < 3:
        return ""
    centered = weights - weights.mean(0)
    positions = centered @ torch.linalg.svd(centered, full_matrices=False).Vh[:2].T
    figure, axes = _new_axes()
    strongest = weights[:, : max(sweep.chosen.basis.rank, 1)].argmax(1)
    axes.scatter(
        positions[:, 0], positions[:, 1], c=strongest, cmap="tab10", vmin=0, vmax=9, s=14, alpha=0.8, linewidths=0
    )
    axes.set_xlabel("first component")
    axes.set_ylabel("second component")
    return _svg(figure)
