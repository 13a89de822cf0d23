"""`lore train`: check, embed, split, fit, personalize, evaluate, report."""

import importlib.metadata
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from lore.data.checks import CheckReport, check
from lore.data.formats import LoadResult
from lore.data.preferences import Preferences
from lore.data.table import save_table
from lore.embedding.store import Embeddings, TruncationCounts, encode
from lore.embedding.tokens import DROPPED
from lore.errors import ConvergenceWarning, DataError, LoreError
from lore.evaluation.cautions import cautions
from lore.evaluation.evaluator import HeldOut
from lore.evaluation.finding import Finding
from lore.evaluation.report_html import report_html, require_plotting
from lore.evaluation.report_json import REPORT_FORMAT, report_json
from lore.evaluation.summary import Summary, compute_statistics, finding_of
from lore.evaluation.sweep import Sweep, held_out_of_split, run_sweep
from lore.evaluation.users import users_csv
from lore.files import write_text
from lore.fitting.basis import RewardBasis
from lore.fitting.config import Fit, FitConfig, Rank
from lore.fitting.personalize import fit_weights
from lore.pairs.splits import Split, write_split
from lore.pairs.table import Pairs
from lore.progress import Progress, silent
from lore.runs.added import read_added, save_with_added
from lore.runs.artifacts import save_users
from lore.runs.config import TrainConfig
from lore.runs.data import all_pairs, layers_tried, with_time_decay
from lore.runs.folder import RunFolder
from lore.runs.layers import with_layer
from lore.runs.paper.protocols import load_settings
from lore.runs.splits import config_for, new_split, split_of_run


@dataclass(frozen=True)
class TrainOutcome:
    """The result of `train`.

    Attributes:
        folder: the RUN folder.
        finding: whether personalizing helps, and whom; its `headline` is the first sentence of the report.
        cautions: what a reader must know before they believe that.
        sweep: all fits and results.
        split: the four parts.
    """

    folder: Path
    finding: Finding
    cautions: list[str]
    sweep: Sweep
    split: Split


def train(
    loaded: LoadResult,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    title: str = "comparisons",
    force: bool = False,
    reuse: Sequence[Embeddings] = (),
    progress: Progress = silent,
) -> TrainOutcome:
    """Check, embed, split, fit, personalize, evaluate and report: the main job.

    An unfinished run of the same data and arguments in `out` is resumed.

    Args:
        loaded: from `lore.data.load_with_issues`.
        out: the RUN folder.
        config: the arguments.
        title: of the report.
        force: replace what is in `out`, embeddings excepted.
        reuse: vectors that need not be computed again, as in `lore.encode`.
        progress: called with every step.

    Raises:
        DataError: the data cannot be learned from.
        RunError: `out` holds something else.
    """
    require_plotting()
    preferences = loaded.preferences
    config = config_for(preferences, config or TrainConfig())
    checked = check(preferences, loaded.issues)
    decayed = with_time_decay(preferences, config)
    if checked.fatal:
        raise DataError(checked.fatal[0].message)
    folder = RunFolder(Path(out))
    folder.begin(run_arguments(config), preferences.fingerprint(), force=force)
    try:
        return _train(folder, checked, decayed, preferences, config, title, reuse, progress)
    except LoreError:
        folder.mark_refused()
        raise


def _train(
    folder: RunFolder,
    checked: CheckReport,
    decayed: Preferences,
    preferences: Preferences,
    config: TrainConfig,
    title: str,
    reuse: Sequence[Embeddings],
    progress: Progress,
) -> TrainOutcome:
    timer = PhaseTimer()
    save_table(preferences, folder.preferences)
    with timer.phase("embed"):
        config = with_layer(preferences, config, folder, progress)
        embeddings = embed(preferences, config, folder, progress, reuse)
    pairs = all_pairs(decayed, embeddings, config)
    parts = split_of_run(folder, preferences, pairs, config)
    write_split(folder.split, parts, preferences.fingerprint())
    with timer.phase("fit"), capture_convergence_warnings() as not_converged:
        sweep = sweep_of_run(parts, config, embeddings.reference, checkpoints=folder.checkpoints, progress=progress)
        more_splits = held_out_of_splits(pairs, config, embeddings.reference, progress)
    with timer.phase("personalize"):
        provenance = config.provenance(preferences.fingerprint())
        ranges = length_ranges(embeddings, preferences)
        basis = save_model(folder, sweep.chosen, provenance, embeddings.fingerprint, ranges)
        weights = fit_weights(pairs, basis).weights
        save_users(folder.users, pairs.users, weights)
        if (added := read_added(folder)) is not None:  # by `lore personalize`, to a run that this one replaces
            embed(added, config, folder, progress)
            save_with_added(folder, dict(zip(pairs.users, weights, strict=True)), added.users, basis)
    truncated = embeddings.truncation_counts(preferences)
    summary = Summary(
        title=title,
        split=parts,
        sweep=sweep,
        finding=finding_of(sweep, more_splits, config.min_pairs),
        statistics=compute_statistics(parts, sweep),
        counts=asdict(checked.counts),
        warnings=_warnings(checked, parts, not_converged, config, embeddings.reference, truncated),
        encoder=embeddings.fingerprint,
        config=run_arguments(config),
        seconds=timer.seconds,
        version=importlib.metadata.version("lore-reward"),
        layers=layers_tried(folder),
        texts=None if config.redact else preferences,
        pairs=pairs,
    )
    return finish(folder, summary)


def finish(folder: RunFolder, summary: Summary) -> TrainOutcome:
    """Write both reports and mark the run as finished."""
    write_text(folder.report_html, report_html(summary))
    write_text(folder.user_table, users_csv(summary.statistics.users, redact=bool(summary.config.get("redact"))))
    REPORT_FORMAT.write(folder.report_json, report_json(summary))
    folder.mark_finished()
    lines = list(cautions(summary.sweep, summary.finding))
    return TrainOutcome(folder.path, summary.finding, lines, summary.sweep, summary.split)


def run_arguments(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of a run as JSON values, with the settings of its experiment if it is one."""
    values = config.to_json()
    if config.experiment is not None:
        values["settings"] = load_settings(config.experiment, config.protocol).to_json()
    return values


@contextmanager
def capture_convergence_warnings() -> Iterator[list[str]]:
    """Collect the messages of convergence warnings in the block, which the report shows."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield messages
    messages += [str(entry.message) for entry in caught]


def sweep_of_run(
    parts: Split,
    config: TrainConfig,
    reference: Tensor | None,
    *,
    ranks: Sequence[Rank] | None = None,
    checkpoints: Path | None = None,
    progress: Progress = silent,
) -> Sweep:
    """Fit and evaluate the models of a run, of other ranks if they are given, by the protocol of its experiment."""
    more: dict[str, Any] = {}
    if config.experiment is not None:
        settings = load_settings(config.experiment, config.protocol)
        procedure = settings.recipe.procedure(config.seed) if settings.recipe else None
        more = {"procedure": procedure, "shots": settings.shots, "trials": settings.trials}
    return run_sweep(
        parts,
        config.ranks if ranks is None else ranks,
        families=config.families,
        config=FitConfig(seed=config.seed),
        reference=reference,
        checkpoints=checkpoints,
        progress=progress,
        min_pairs=config.min_pairs,
        **more,
    )


def held_out_of_splits(
    pairs: Pairs,
    config: TrainConfig,
    reference: Tensor | None,
    progress: Progress,
    *,
    ranks: Sequence[Rank] | None = None,
) -> list[dict[str, HeldOut]]:
    """Fit and evaluate on the further splits of a run, which rotate the held-out users and groups."""
    results = []
    for number in range(1, config.splits):
        parts = new_split(pairs, config, number)
        results.append(
            held_out_of_split(
                parts,
                config.ranks if ranks is None else ranks,
                config.families,
                FitConfig(seed=config.seed),
                reference=reference,
                progress=lambda task, done, total, note="", number=number: progress(
                    f"{task}, split {number + 1} of {config.splits}", done, total, note
                ),
                min_pairs=config.min_pairs,
            )
        )
    return results


def _warnings(
    checked: CheckReport,
    parts: Split,
    not_converged: Sequence[str],
    config: TrainConfig,
    reference: Tensor | None,
    truncated: TruncationCounts,
) -> list[str]:
    lines = [issue.message for issue in checked.issues] + list(not_converged)
    if parts.dropped:
        lines.append(
            f"{parts.dropped} pairs straddle training and test, or share a response with a test pair, and were dropped"
        )
    if parts.shared:
        lines.append(f"{parts.shared} groups are in training for one user and in test for another (split by user)")
    if 0 in config.ranks and reference is None and tuple(config.ranks) != TrainConfig.ranks:
        lines.append("the encoder has no reward head of its own, and so there is no reference (rank 0) to compare with")
    if message := truncated.message():
        lines.append(message)
    return lines


def embed(
    preferences: Preferences,
    config: TrainConfig,
    folder: RunFolder,
    progress: Progress,
    reuse: Sequence[Embeddings] = (),
) -> Embeddings:
    """Embed every conversation of a table into the store of a run."""
    return encode(
        preferences, config.encoder, folder.embeddings, options=config.encoding, reuse=reuse, progress=progress
    )


class PhaseTimer:
    """Seconds spent in each phase of a job.

    Attributes:
        seconds: by name of the phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the seconds of the block under a name."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - begin, 2)


def length_ranges(embeddings: Embeddings, preferences: Preferences) -> dict[int, tuple[float, float]]:
    """Return the least and the greatest number of a table in each column that counts how long a response is."""
    rows = embeddings.rows(preferences)
    rows = rows[embeddings.status[rows] != DROPPED]
    ranges = {}
    for column in embeddings.length_columns if len(rows) else ():
        numbers = embeddings.vectors[:, column][rows].float()
        ranges[column] = (float(numbers.min()), float(numbers.max()))
    return ranges


def save_model(
    folder: RunFolder,
    fit: Fit,
    provenance: dict[str, Any],
    encoder: dict[str, str | int],
    ranges: dict[int, tuple[float, float]] | None = None,
) -> RewardBasis:
    """Write the basis of a fit into a run, and return it with its provenance."""
    basis = replace(fit.basis, encoder=encoder, provenance=provenance, ranges=ranges or {})
    basis.save(folder.model)
    return basis
