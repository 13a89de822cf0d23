"""`lore check`: everything that `lore train` does to data before the first fit, without embedding a text."""

from dataclasses import replace

from lore.data.checks import CheckReport, check
from lore.data.formats import LoadResult
from lore.data.issues import DataIssue
from lore.errors import LoreError
from lore.runs.config import TrainConfig
from lore.runs.data import all_pairs, with_time_decay
from lore.runs.splits import Unembedded, config_for, new_split


def check_for_training(loaded: LoadResult, config: TrainConfig | None = None) -> CheckReport:
    """Check a table, and whether it can be made into pairs and split.

    Args:
        loaded: from `lore.data.load_with_issues`.
        config: the arguments of `train`.
    """
    preferences = loaded.preferences
    report = check(preferences, loaded.issues, to_split=True)
    if report.fatal:
        return report
    config = config_for(preferences, config or TrainConfig())
    try:
        decayed = with_time_decay(preferences, config)
        new_split(all_pairs(decayed, Unembedded.of(preferences), config), config, 0)
    except LoreError as error:
        where = preferences.origin.describe([], 0)
        fatal = DataIssue("cannot be split", True, f"{where}: {error}", len(preferences))
        return replace(report, issues=[fatal, *report.issues])
    return report
