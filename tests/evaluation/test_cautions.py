from dataclasses import replace

import pytest

from lore.evaluation.cautions import cautions, controls
from lore.evaluation.evaluator import Result
from lore.evaluation.intervals import UNKNOWN
from lore.evaluation.metrics import Gain
from lore.evaluation.summary import finding_of
from lore.evaluation.sweep import Sweep, run_sweep
from lore.fitting.config import FitConfig
from lore.pairs.splits import Split


@pytest.fixture
def sweep(parts: Split) -> Sweep:
    return run_sweep(parts, [1, 2], config=FitConfig(strength=0.01, weight_strength=0.01))


def _lines(sweep: Sweep) -> list[str]:
    return list(cautions(sweep, finding_of(sweep)))


def changed(sweep: Sweep, model: str, **values: float) -> Sweep:
    """The same sweep with another result of a model."""
    results: list[Result] = [replace(one, **values) if one.model == model else one for one in sweep.results]  # type: ignore[arg-type]
    return replace(sweep, results=results)


@pytest.mark.parametrize(
    ("gain", "low", "high", "verdict"),
    [(-0.1, -0.15, -0.05, "holds"), (0.2, 0.1, 0.3, "does not hold"), (0.0, -0.9, 0.9, "cannot be told")],
)
def test_other_users_weights_are_judged_by_their_interval(
    sweep: Sweep, gain: float, low: float, high: float, verdict: str
) -> None:
    told = changed(sweep, "wrong_user", gain=gain, gain_low=low, gain_high=high)
    control = next(one for one in controls(told) if one.name == "wrong_user")
    assert control.verdict == verdict
    assert any("A control does not hold" in line for line in _lines(told)) == (verdict == "does not hold")


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.45, 0.55, "holds"), (0.65, 0.75, "does not hold"), (0.2, 0.35, "does not hold"), (0.3, 0.8, "cannot be told")],
)
def test_coins_are_judged_by_their_interval(sweep: Sweep, low: float, high: float, verdict: str) -> None:
    told = changed(sweep, "shuffled", accuracy=(low + high) / 2, low=low, high=high)
    assert next(one for one in controls(told) if one.name == "shuffled").verdict == verdict


def test_what_beats_the_model_is_said_with_what_to_try(sweep: Sweep) -> None:
    quiet = replace(changed(sweep, "length", accuracy=0.4), better={})
    assert not [line for line in _lines(quiet) if "control" not in line]
    lines = list(_lines(changed(quiet, "length", accuracy=0.99)))
    assert any("longer response" in line and "another encoder" in line for line in lines)
    surely = Gain(0.05, 0.02, 0.08, 20, 0.05, UNKNOWN)
    lines = list(_lines(replace(quiet, better={("per_user", None): surely, ("simplex", 4): surely})))
    assert any(line.startswith("Learning each user alone is surely better") for line in lines)
    assert any("rank 4" in line and "+2.0 to +8.0" in line for line in lines)


def test_a_model_no_better_than_a_coin_is_near_the_top(sweep: Sweep) -> None:
    coin = replace(sweep, baseline=replace(sweep.baseline, mean=0.49))
    assert any("no more than a coin" in line for line in _lines(coin))
