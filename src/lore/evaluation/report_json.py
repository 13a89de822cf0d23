"""`report.json`, the report for machines."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lore.evaluation.calibration import Calibration
from lore.evaluation.cautions import cautions, controls
from lore.evaluation.intervals import Interval
from lore.evaluation.metrics import Gain
from lore.evaluation.summary import ReportStatistics, Summary
from lore.files import JsonFormat, read_json

_RENAMED = {"finding": "headline", "people": "users"}  # names of format 0, whose fits had no `optimality`
REPORT_FORMAT = JsonFormat(
    name="the report",
    number=3,
    fields=frozenset({"lore", "headline", "gain", "data", "warnings", "encoder", "config", "results", "seconds"})
    | frozenset({"calibration", "users", "sensitivity", "learning_curve", "collapse", "noise", "chosen", "fits"}),
    # Formats 0 and 1 had one interval of the gain, over users alone.
    # Format 2 had no `layers`.
    optional=frozenset({"finding", "cautions", "controls", "reachable", "ties", "without_ties", "layers"}),
)


def report_json(summary: Summary) -> dict[str, Any]:
    """Return the content of `report.json` (docs/commands.md)."""
    finding = summary.finding
    return {
        "lore": summary.version,
        "headline": finding.headline,
        "gain": _gain_json(finding.groups[0].gain),
        "finding": {
            "has_tastes": finding.has_tastes,
            "splits": finding.splits,
            "groups": [
                {
                    "setting": group.setting,
                    "verdict": group.verdict,
                    "gain": _gain_json(group.gain),
                    "over_other_users": None if group.over_others is None else _gain_json(group.over_others),
                    "over_item_rate": None if group.over_item_rate is None else _gain_json(group.over_item_rate),
                    "users": group.gain.users,
                    "left_out": group.left_out,
                    "discordant": group.discordant,
                }
                for group in finding.groups
            ],
        },
        "cautions": list(cautions(summary.sweep, summary.finding)),
        "controls": [asdict(control) for control in controls(summary.sweep)],
        "reachable": finite(summary.statistics.reachable),
        "ties": finite(summary.statistics.ties),
        "without_ties": dict(zip(("pooled", "chosen"), map(finite, summary.statistics.without_ties), strict=True)),
        "data": {**summary.counts, "split": summary.split.to_json()["pairs"], "dropped": summary.split.dropped},
        "warnings": summary.warnings,
        "encoder": summary.encoder,
        "layers": [dict(one) for one in summary.layers],
        "config": summary.config,
        **_statistics_json(summary.statistics),
        "chosen": {"family": summary.sweep.chosen.basis.family, "rank": summary.sweep.chosen.basis.rank},
        "fits": [
            {
                "rank": fit.basis.rank,
                "family": fit.basis.family,
                "strength": fit.strength,
                "weight_strength": fit.weight_strength,
                "validation": fit.validation,
                "objective": fit.objective,
                "gap": fit.gap,
                "optimality": finite(fit.optimality),
                "optimality_kind": fit.optimality_kind,
                "converged": fit.converged,
            }
            for fit in summary.sweep.fits
        ],
        "results": [
            {name: finite(value) if isinstance(value, float) else value for name, value in result.to_json().items()}
            for result in summary.sweep.results
        ],
        "seconds": summary.seconds,
    }


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a `report.json` of this version or an earlier one, under today's names.

    Raises:
        DataError: it cannot be read, or is of a newer format.
    """
    values = read_json(path)
    if isinstance(values, dict) and "format" not in values:
        values = {_RENAMED.get(name, name): value for name, value in values.items()}
        if isinstance(curve := values.get("learning_curve"), dict):
            values["learning_curve"] = {"max_gain" if name == "most" else name: value for name, value in curve.items()}
    return REPORT_FORMAT.check(str(path), values)[1]


def _statistics_json(statistics: ReportStatistics) -> dict[str, Any]:
    """Return the parts of `report.json` that `compute_statistics` measures."""
    log_odds = statistics.verdicts.log_odds[statistics.verdicts.log_odds.isfinite()]
    return {
        "calibration": {name: _calibration_json(one) for name, one in statistics.calibrations.items()},
        "users": {
            **statistics.verdicts.counts(),
            "false_discovery_rate": statistics.verdicts.rate,
            "odds_above_one": int((log_odds > 0).sum()),
            "odds_above_ten": int((log_odds > math.log(10)).sum()),
            "odds_below_a_tenth": int((log_odds < -math.log(10)).sum()),
            "worst_tenth": {"pooled": finite(statistics.worst[0]), "chosen": finite(statistics.worst[1])},
        },
        "sensitivity": {
            "without_one_user": _interval_json(statistics.without_one_user),
            "without_one_group": _interval_json(statistics.without_one_group),
        },
        "learning_curve": None if statistics.curve is None else asdict(statistics.curve),
        "collapse": asdict(statistics.collapse),
        "noise": {
            "median": statistics.noise.median,
            "spread": statistics.noise.spread,
            "tie": statistics.noise.tie,
            "noisier": None if statistics.noise.sure is None else statistics.noise.sure[0],
            "steadier": None if statistics.noise.sure is None else statistics.noise.sure[1],
        },
    }


def _gain_json(measured: Gain) -> dict[str, Any]:
    return {
        "mean": finite(measured.mean),
        "low": finite(measured.low),
        "high": finite(measured.high),
        "users": measured.users,
        "equal": finite(measured.equal),
        "these_prompts": _interval_json(measured.these_prompts),
    }


def _interval_json(interval: Interval) -> dict[str, float | None]:
    return {"low": finite(interval.low), "high": finite(interval.high)}


def _calibration_json(measured: Calibration) -> dict[str, Any]:
    columns = (measured.predicted, measured.observed, measured.low, measured.high, measured.count)
    return {
        "error": measured.error,
        "perfect_error": measured.perfect_error,
        "brier": measured.brier,
        "log_loss": measured.log_loss,
        "bins": [
            dict(zip(("predicted", "observed", "low", "high", "count"), row, strict=True))
            for row in zip(*(column.tolist() for column in columns), strict=True)
        ],
    }


def finite(value: float) -> float | None:
    """Return a number, or None for one that is not finite, which JSON cannot hold."""
    return value if np.isfinite(value) else None
