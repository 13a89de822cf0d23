"""The PersonalLLM experiment: simulated users who judge scored responses."""

import importlib.metadata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lore.data.builder import PreferencesBuilder
from lore.data.checks import Counts
from lore.data.formats.personalllm import RESPONSES, Scored, scored
from lore.data.formats.readers import read_records
from lore.data.issues import IssueLog, SourceLocations
from lore.data.simulation import best_against_worst, draw_weights
from lore.embedding.precomputed import read_vectors
from lore.embedding.store import encode
from lore.errors import DataError, EncoderError, LoreError
from lore.evaluation.report_html import require_plotting
from lore.evaluation.summary import Summary, compute_statistics, finding_of
from lore.fitting.personalize import fit_weights
from lore.pairs.splits import Split, write_split
from lore.pairs.table import Pairs
from lore.progress import Progress
from lore.runs.artifacts import save_users
from lore.runs.config import TrainConfig
from lore.runs.folder import RunFolder
from lore.runs.paper.download import download
from lore.runs.paper.protocols import ExperimentSettings
from lore.runs.training import PhaseTimer, TrainOutcome, capture_convergence_warnings, finish, save_model, sweep_of_run

_SPLITS = ("train", "test")

_SUFFIXES = (".jsonl", ".parquet", ".csv")


@dataclass(frozen=True)
class ScoredSource:
    """The source of scored responses, and of their embeddings if they were made elsewhere."""

    data: str | Path | None
    embeddings: Path | None

    def rows(self, split: str, hub: str) -> Scored:
        """Return the rows of one split of the data set."""
        origin = SourceLocations()
        issues = IssueLog(origin)
        if self.data is None:
            rows = download("personalllm", hub)[split]
            return scored(read_records(rows, origin, issues), issues, f"{hub}, {split}")
        folder = Path(self.data)
        files = [folder / f"{split}{suffix}" for suffix in _SUFFIXES if (folder / f"{split}{suffix}").is_file()]
        if len(files) != 1:
            raise DataError(f"{folder}: needs one file {split}.jsonl, {split}.parquet or {split}.csv, has {len(files)}")
        return scored(read_records(files[0], origin, issues), issues, str(files[0]))

    def fingerprint(self, rows: Iterable[Scored]) -> str:
        """SHA-256 of prompts, responses, scores, and the files of embeddings."""
        digest = sha256()
        for part in rows:
            for prompt, responses in zip(part.prompts, part.responses, strict=True):
                digest.update("\0".join([prompt, *responses]).encode())
            digest.update(part.scores.tobytes())
        files = [self.embeddings / f"{split}.safetensors" for split in _SPLITS] if self.embeddings else []
        for path in files:
            try:
                with path.open("rb") as file:
                    digest.update(file_digest(file, "sha256").digest())
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}); give both files") from None
        return digest.hexdigest()


@dataclass(frozen=True)
class _Table:
    """Prompts of both splits, each once.

    Attributes:
        scores: `[prompts, 8, 10]`.
        vectors: embeddings of their responses, `[prompts * 8, dim]`.
        train: which prompts are for training, `[train prompts]`.
        test: which are held out, `[test prompts]`.
        response: the same number for the same text, `[prompts * 8]`.
        reference: the reward model's own head, `[dim]`, or None.
        encoder: fingerprint of what made the vectors.
        dropped: rows that were left out.
    """

    scores: NDArray[np.float64]
    vectors: Tensor
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    response: Tensor
    reference: Tensor | None
    encoder: Mapping[str, str | int]
    dropped: int


def personalllm(
    source: ScoredSource,
    path: Path,
    config: TrainConfig,
    settings: ExperimentSettings,
    *,
    force: bool,
    progress: Progress,
) -> TrainOutcome:
    """Simulate the users of the experiment, fit, adapt and evaluate, into the RUN folder at `path`."""
    require_plotting()
    rows = {split: source.rows(split, settings.hub) for split in _SPLITS}
    arguments = {**config.to_json(), "settings": settings.to_json()}
    folder = RunFolder(path)
    folder.begin(arguments, source.fingerprint(rows.values()), force=force)
    timer = PhaseTimer()
    try:
        with timer.phase("embed"):
            table = _table(rows, source.embeddings, folder, config, progress)
        parts = _parts(table, settings.sampling, config.seed)
        write_split(folder.split, parts)
        with timer.phase("fit"), capture_convergence_warnings() as not_converged:
            sweep = sweep_of_run(parts, config, table.reference, checkpoints=folder.checkpoints, progress=progress)
    except LoreError:
        folder.mark_refused()
        raise
    basis = save_model(folder, sweep.chosen, config.provenance(settings.hub), dict(table.encoder))
    users = (*parts.seen_train.users, *parts.unseen_shots.users)
    weights = [fit_weights(part, basis).weights for part in (parts.seen_train, parts.unseen_shots)]
    save_users(folder.users, users, torch.cat(weights))
    summary = Summary(
        title="personalllm",
        split=parts,
        sweep=sweep,
        finding=finding_of(sweep, min_pairs=config.min_pairs),
        statistics=compute_statistics(parts, sweep),
        counts=asdict(_counts(table, parts)),
        warnings=_warnings(table, config) + not_converged,
        encoder=dict(table.encoder),
        config=arguments,
        seconds=timer.seconds,
        version=importlib.metadata.version("lore-reward"),
    )
    return finish(folder, summary)


def _counts(table: _Table, parts: Split) -> Counts:
    """Return what `lore check` would count; nothing about texts, as they may not have been read."""
    per_user = torch.cat([part.counts for part in (parts.seen_train, parts.unseen_shots)]).double()
    return Counts(
        users=len(per_user),
        comparisons=sum(len(part) for part in parts.parts().values()),
        ratings=False,
        prompts=len(table.scores),
        responses=len(table.vectors),
        conversations=len(table.vectors),
        groups=len(table.scores),
        per_user=per_user.quantile(torch.linspace(0, 1, 5, dtype=torch.float64)).tolist(),
        empty_responses=0,
        longer_chosen=None,
        disagreement=None,
    )


def _warnings(table: _Table, config: TrainConfig) -> list[str]:
    lines = []
    if table.dropped:
        lines.append(
            f"{table.dropped} rows were left out: a prompt twice, in both splits, or without a scored response"
        )
    if table.reference is None and 0 in config.ranks:
        lines.append("no reward head is known: rank 0, the reference, is left out")
    return lines


def _table(
    rows: Mapping[str, Scored], embeddings: Path | None, folder: RunFolder, config: TrainConfig, progress: Progress
) -> _Table:
    """Prompts that are in the test split, then those of training that are not; each once, with a scored response."""
    seen: set[str] = set()
    usable_rows: dict[str, list[int]] = {}
    for split in reversed(_SPLITS):
        usable = ~np.isnan(rows[split].scores.sum(axis=2)).all(axis=1)
        usable_rows[split] = []
        for number, prompt in enumerate(rows[split].prompts):
            if usable[number] and prompt not in seen:
                seen.add(prompt)
                usable_rows[split].append(number)
    scores = np.concatenate([rows[split].scores[usable_rows[split]] for split in _SPLITS])
    count = len(usable_rows["train"])
    texts = [text for split in _SPLITS for number in usable_rows[split] for text in rows[split].responses[number]]
    if embeddings is not None:
        vectors, reference = _read_embeddings(embeddings, rows, usable_rows)
        made_by: Mapping[str, str | int] = {"encoder": "given files", "dtype": str(vectors.dtype)}
    else:
        vectors, reference, made_by = _encoded(rows, usable_rows, folder, config, progress)
    return _Table(
        scores=scores,
        vectors=vectors,
        train=np.arange(count),
        test=np.arange(count, len(scores)),
        response=torch.from_numpy(np.unique(texts, return_inverse=True)[1]),
        reference=reference,
        encoder=made_by,
        dropped=sum(len(part.prompts) for part in rows.values()) - len(scores),
    )


def _read_embeddings(
    folder: Path, rows: Mapping[str, Scored], usable_rows: Mapping[str, list[int]]
) -> tuple[Tensor, Tensor | None]:
    """Embeddings that were made elsewhere: eight rows a prompt, in the order of the data set."""
    parts, reference = [], None
    for split in _SPLITS:
        path = folder / f"{split}.safetensors"
        try:
            content = read_vectors(path)
        except EncoderError as error:
            raise DataError(str(error)) from None
        vectors = content.vectors
        reference = content.reference if content.reference is not None else reference
        expected = RESPONSES * len(rows[split].prompts)
        if len(vectors) != expected:
            raise DataError(
                f"{path}: embeddings must be [{expected}, dim], eight rows a prompt, got "
                f"{tuple(vectors.shape)}; make them again for the published rows"
            )
        if not bool(vectors.isfinite().all()):
            raise DataError(f"{path}: embeddings must be finite; make them again")
        parts.append(vectors.float().view(-1, RESPONSES, vectors.shape[1])[usable_rows[split]].flatten(0, 1))
    if parts[0].shape[1] != parts[1].shape[1]:
        raise DataError(
            f"{folder}: train and test have {parts[0].shape[1]} and {parts[1].shape[1]} numbers a "
            "row; make them with one encoder"
        )
    if reference is not None and (len(reference) != parts[0].shape[1] or not bool(reference.isfinite().all())):
        raise DataError(
            f"{folder}: `reference` must be {parts[0].shape[1]} finite numbers, got {len(reference)}; make it again"
        )
    return torch.cat(parts), reference


def _encoded(
    rows: Mapping[str, Scored],
    usable_rows: Mapping[str, list[int]],
    folder: RunFolder,
    config: TrainConfig,
    progress: Progress,
) -> tuple[Tensor, Tensor | None, Mapping[str, str | int]]:
    builder = PreferencesBuilder(SourceLocations())
    for split in _SPLITS:
        for number in usable_rows[split]:
            for response in rows[split].responses[number]:
                builder.row(rows[split].prompts[number], response)
    mentioned, preferences = builder.rows(), builder.build()
    embeddings = encode(preferences, config.encoder, folder.embeddings, options=config.encoding, progress=progress)
    return (
        embeddings.vectors[embeddings.rows(preferences)[torch.from_numpy(mentioned)]],
        embeddings.reference,
        embeddings.fingerprint,
    )


def _parts(table: _Table, sampling: Mapping[str, Any], seed: int) -> Split:
    """Users are drawn, then the prompts that each of them judges, then what they choose."""
    rng = np.random.default_rng(seed)
    counts = {"seen": sampling["seen"], "unseen": sampling["unseen"]}
    scorers = table.scores.shape[2]
    users = {who: draw_weights(count, scorers, sampling["concentration"], rng) for who, count in counts.items()}
    vectors = table.vectors.view(len(table.scores), RESPONSES, -1)

    in_test = torch.isin(table.response, table.response[len(table.train) * RESPONSES :])

    def choices_of(who: str, prompts: NDArray[np.int64], share: float, leaks: Tensor) -> tuple[Pairs, int]:
        count = int(share * len(prompts))
        if count == 0:
            raise DataError(f"{share:.1%} of {len(prompts)} prompts is none; give more data")
        prompts_of_users = np.stack([rng.choice(prompts, count, replace=False) for _ in users[who]])
        choices = best_against_worst(table.scores, vectors, users[who], prompts_of_users)
        chosen, rejected = ((choices.prompt * RESPONSES + side).flatten() for side in (choices.best, choices.worst))
        leaking = leaks[chosen] | leaks[rejected]
        usable = ~leaking & (chosen != rejected)
        pairs = Pairs.from_rows(
            table.vectors,
            chosen[usable],
            rejected[usable],
            torch.arange(len(prompts_of_users)).repeat_interleave(count)[usable],
            users=[f"{who}-{number:04d}" for number in range(len(prompts_of_users))],
            group=torch.arange(len(table.scores)).repeat_interleave(RESPONSES),
        )
        return pairs, int(leaking.sum())

    nothing = torch.zeros_like(in_test)
    trained, dropped = choices_of("seen", table.train, sampling["train_share"], in_test)
    tested, _ = choices_of("seen", table.test, sampling["test_share"], nothing)
    shots, more = choices_of("unseen", table.train, sampling["shot_share"], in_test)
    tested_unseen, _ = choices_of("unseen", table.test, sampling["test_share"], nothing)
    return Split(trained, tested, shots, tested_unseen, dropped=dropped + more, shared=0)
