"""The steps of `lore train`, one at a time, on the same artefacts."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lore.data.messages import as_json
from lore.data.preferences import Preferences
from lore.data.table import save_table
from lore.embedding.encoder import Encoder
from lore.embedding.load import load_encoder
from lore.embedding.plans import EmbeddingPlan, plan
from lore.embedding.store import Embeddings, encode
from lore.errors import DataError, LoreError, RunError
from lore.evaluation.evaluator import Result, model_of
from lore.evaluation.finding import Finding
from lore.evaluation.metrics import Accuracy, accuracy
from lore.evaluation.summary import finding_of
from lore.fitting.basis import Family
from lore.fitting.config import Fit, FitConfig, Rank
from lore.fitting.fit import fit_bases
from lore.fitting.personalize import fit_weights
from lore.pairs.splits import Split, write_split
from lore.pairs.table import Pairs
from lore.progress import Progress, silent
from lore.runs.added import add_to_run, run_data, save_with_added
from lore.runs.artifacts import Run, save_users
from lore.runs.config import TrainConfig
from lore.runs.data import RunData, config_of, with_time_decay
from lore.runs.folder import RunFolder
from lore.runs.layers import with_layer
from lore.runs.splits import split_of_run
from lore.runs.training import embed, held_out_of_splits, length_ranges, save_model, sweep_of_run


def embed_step(
    preferences: Preferences, out: str | Path, config: TrainConfig, *, force: bool = False, progress: Progress = silent
) -> Embeddings:
    """Begin a RUN folder and embed all conversations (`lore embed`)."""
    folder = RunFolder(Path(out))
    folder.begin(config.to_json(), preferences.fingerprint(), force=force)
    save_table(preferences, folder.preferences)
    try:
        return embed(preferences, with_layer(preferences, config, folder, progress), folder, progress)
    except LoreError:
        folder.mark_refused()
        raise


def plan_step(preferences: Preferences, out: str | Path, config: TrainConfig) -> EmbeddingPlan:
    """Predict what embedding will cost (`lore embed --plan`); nothing is written."""
    encoder = config.encoder
    if isinstance(encoder, str):
        encoder = load_encoder(encoder, config.encoding, preferences)
    return plan(preferences, encoder, RunFolder(Path(out)).embeddings)


def conversation_lines(preferences: Preferences) -> str:
    """Return one JSON line for each distinct conversation, in order of appearance (`lore embed --list`)."""
    lines = []
    for row in range(preferences.rows):
        prompt, response = (as_json(messages) for messages in preferences.conversation(row))
        lines.append(json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False) + "\n")
    return "".join(lines)


def fit_step(
    run: str | Path, family: Family | None = None, rank: Rank = "auto", *, seed: int = 0, force: bool = False
) -> Fit:
    """Learn a basis from the seen users of a RUN folder, and the weights of all users (`lore fit`).

    Args:
        run: the RUN folder.
        family: of the model; that of the run by default. If the run compares both, held-out groups choose.
        rank: learned directions, or "auto".
        seed: of starts and folds.
        force: replace the model of a finished run.

    Raises:
        RunError: the run has a model already; with `force` that is replaced, and its report is removed.
    """
    folder = RunFolder(Path(run))
    if folder.state()["finished"] and not force:
        raise RunError(f"{run}: has a model already; replace it, and drop its report, with `force`")
    data = RunData.load(run)
    parts = _split(folder, data)
    families = data.config.families if family is None else (family,)
    configs = [FitConfig(family=one, rank=rank, seed=seed) for one in families]
    fits = fit_bases(parts.seen_train, configs, data.embeddings.reference)
    fit = min(fits, key=lambda one: math.inf if one.validation is None else one.validation)
    for report in (folder.report_html, folder.report_json):
        report.unlink(missing_ok=True)
    provenance = data.config.provenance(data.preferences.fingerprint())
    ranges = length_ranges(data.embeddings, data.preferences)
    basis = save_model(folder, fit, provenance, data.embeddings.fingerprint, ranges)
    save_users(folder.users, data.pairs.users, fit_weights(data.pairs, basis).weights)
    write_split(folder.split, parts, data.preferences.fingerprint())
    folder.mark_finished()
    return fit


def personalize_step(
    run: str | Path, preferences: Preferences, *, encoder: Encoder | None = None, progress: Progress = silent
) -> int:
    """Add comparisons to a run and learn the weights of their users, the basis frozen; return how many were learned.

    Users are learned from these comparisons and all that the run holds of them: it keeps what is added. A comparison
    that it holds already is not counted twice. Users without a usable comparison keep their weights.

    Args:
        run: the RUN folder (`lore personalize`).
        preferences: comparisons of the users.
        encoder: that of the run; loaded by its name by default.
        progress: called with every shard that is embedded.

    Raises:
        DataError: nothing can be learned from the table.
    """
    existing = Run.load(run)
    folder = RunFolder(existing.folder)
    embeddings = encode(
        preferences, encoder or existing.encoder, folder.embeddings, options=existing.options, progress=progress
    )
    pairs = Pairs.from_embeddings(with_time_decay(preferences, config_of(folder)), embeddings)
    users = [pairs.users[row] for row in torch.nonzero(pairs.counts > 0).flatten().tolist()]
    if not users:
        raise DataError(
            "no usable comparison: the sides of each are equal or too long, or its `weight` is 0; give others"
        )
    add_to_run(run_data(folder), folder, preferences, embeddings)
    weights = {user: existing.weights[row] for user, row in existing.users.items()}
    save_with_added(folder, weights, users, existing.basis)
    return len(users)


def evaluate_step(run: str | Path) -> dict[str, Accuracy]:
    """Return the accuracy of the basis of a RUN folder in the settings of its split (`lore evaluate`)."""
    data, basis = RunData.load(run), Run.load(run).basis
    parts = _split(RunFolder(Path(run)), data).parts()
    seen, unseen = (fit_weights(parts[name], basis) for name in ("seen_train", "unseen_shots"))
    return {
        name: accuracy(part, basis, seen if name.startswith("seen") else unseen)
        for name, part in parts.items()
        if len(part)
    }


@dataclass(frozen=True)
class SweepOutcome:
    """The results of a sweep over a run's own split, and its finding.

    Attributes:
        results: of every model in every setting.
        finding: whether personalizing helps, and whom, over all splits; None if no personal model was asked for.
    """

    results: list[Result]
    finding: Finding | None


def sweep_step(run: str | Path, ranks: Sequence[Rank], *, splits: int = 1, progress: Progress = silent) -> SweepOutcome:
    """Fit and evaluate several ranks on the split of a RUN folder (`lore sweep`).

    Args:
        run: the RUN folder.
        ranks: to compare.
        splits: that the finding is the mean of; the first is that of the run.
        progress: called with every fit.
    """
    data = RunData.load(run)
    config = replace(data.config, splits=splits)
    reference = data.embeddings.reference
    sweep = sweep_of_run(_split(RunFolder(Path(run)), data), config, reference, ranks=ranks, progress=progress)
    if all(model_of(fit) in ("reference", "pooled") for fit in sweep.fits):
        return SweepOutcome(sweep.results, None)
    more = held_out_of_splits(data.pairs, config, reference, progress, ranks=ranks)
    return SweepOutcome(sweep.results, finding_of(sweep, more, config.min_pairs))


def _split(folder: RunFolder, data: RunData) -> Split:
    return split_of_run(folder, data.preferences, data.pairs, data.config)
