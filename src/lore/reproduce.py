"""`lore reproduce`: the paper's experiments, from the real data sets."""

import importlib.metadata
import logging
import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lore.check import Counts
from lore.embedding import EncoderOptions, encode
from lore.errors import ConfigError, DataError, LoreError, MissingExtra, RunError
from lore.experiments import Experiment, Protocol, ProtocolName, read_protocol
from lore.files import write_json
from lore.pairs import Pairs, Split
from lore.personalize import fit_weights
from lore.preferences import Findings, Origin, PreferencesBuilder
from lore.progress import Progress, silent
from lore.report import Summary, finding, require_plotting, write_report
from lore.run import begin, finish, read_state, refuse, save_users
from lore.simulate import best_against_worst, draw_weights
from lore.sources import read
from lore.sources.personalllm import RESPONSES, Scored, scored
from lore.sources.records import read_records
from lore.train import Clock, TrainConfig, TrainOutcome, noted, sweep_of, train

_SPLITS = ("train", "test")
_SUFFIXES = (".jsonl", ".parquet", ".csv")


def reproduce(
    experiment: Experiment,
    out: str | Path,
    *,
    data: str | Path | None = None,
    embeddings: str | Path | None = None,
    protocol: ProtocolName = "lore",
    concentration: float | None = None,
    encoder: str = "minilm",
    encoding: EncoderOptions | None = None,
    seed: int | None = None,
    split_file: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> TrainOutcome:
    """One of the paper's experiments.

    Args:
        experiment: which one; its settings are in `experiments/*.toml`.
        out: the RUN folder.
        data: the published data set: a folder with train and test files (personalllm), the folder of PRISM, or rows of
            TLDR; downloaded by its id where none is given.
        embeddings: a folder with `train.safetensors` and `test.safetensors`, key "embeddings", eight rows a prompt
            (personalllm), instead of an encoder.
        protocol: "lore", converged and validated, or "original", the published number of steps and rates.
        concentration: Dirichlet parameter of the simulated people, instead of the 0.1 of the settings (personalllm).
        encoder: what `lore.embedding.load_encoder` takes.
        encoding: how it encodes.
        seed: of people, splits and fits; 0 by default, drawn by "original", which has none.
        split_file: the `split.json` of another run of the experiment, whose split to take (prism, tldr).
        force: replace what is in `out`.
        progress: told of every step.

    Raises:
        DataError: the data are not the published ones.
        ConfigError: embeddings or a concentration are given for an experiment that has none; it is not positive.
        RunError: `out` holds something else.
    """
    settings = read_protocol(experiment, protocol)
    if seed is None:
        seed = _begun_with(Path(out)) or secrets.randbelow(2**31) if protocol == "original" else 0
    if concentration is not None:
        if not 0 < concentration < math.inf:
            raise ConfigError(f"`concentration` must be a positive number, got {concentration}")
        settings = replace(settings, sampling=settings.sampling | {"concentration": concentration})
    config = TrainConfig(
        encoder=encoder,
        family="simplex",
        ranks=settings.ranks,
        seed=seed,
        split_file=None if split_file is None else str(split_file),
        encoding=encoding or EncoderOptions(),
        experiment=experiment,
        protocol=protocol,
    )
    if experiment == "personalllm":
        if split_file is not None:
            raise ConfigError("`split_file` is for prism and tldr; personalllm simulates its people from the seed")
        source = _Source(data, None if embeddings is None else Path(embeddings))
        return _personalllm(source, Path(out), config, settings, force=force, progress=progress)
    if embeddings is not None or concentration is not None:
        raise ConfigError("`embeddings` and `concentration` are for personalllm, which simulates; leave them out")
    reading = read(data if data is not None else _download(experiment, settings.hub), format=experiment)
    return train(reading, out, config, title=experiment, force=force, progress=progress)


def _begun_with(folder: Path) -> int | None:
    """The seed of an unfinished run, which the same command goes on with."""
    try:
        state = read_state(folder)
    except RunError:
        return None
    return None if state.get("finished") else int(state["config"]["seed"])


def _download(experiment: Experiment, hub: str) -> Any:
    """The published data set: a folder for PRISM, rows for TLDR, rows by split for PersonalLLM."""
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise MissingExtra("datasets", "data") from None
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it tells of every attempt; the last one is told below
    try:
        if experiment == "prism":
            return Path(huggingface_hub.hf_hub_download(hub, "conversations.jsonl", repo_type="dataset")).parent
        if experiment == "tldr":
            parts = datasets.load_dataset(hub, "comparisons")
            return datasets.concatenate_datasets([parts["train"], parts["validation"]])
        return datasets.load_dataset(hub)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{hub}: cannot be downloaded ({reason}); give the data set with --data") from None


# --- PersonalLLM --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """Where scored responses, and their embeddings if they were made elsewhere, come from."""

    data: str | Path | None
    embeddings: Path | None

    def rows(self, split: str, hub: str) -> Scored:
        """The rows of one split of the data set."""
        origin = Origin()
        findings = Findings(origin)
        if self.data is None:
            rows = _download("personalllm", hub)[split]
            return scored(read_records(rows, origin, findings), findings, f"{hub}, {split}")
        folder = Path(self.data)
        found = [folder / f"{split}{suffix}" for suffix in _SUFFIXES if (folder / f"{split}{suffix}").is_file()]
        if len(found) != 1:
            raise DataError(f"{folder}: needs one file {split}.jsonl, {split}.parquet or {split}.csv, has {len(found)}")
        return scored(read_records(found[0], origin, findings), findings, str(found[0]))

    def fingerprint(self, rows: Iterable[Scored]) -> str:
        """SHA-256 of prompts, responses, scores, and the files of embeddings."""
        digest = sha256()
        for part in rows:
            for prompt, responses in zip(part.prompts, part.responses, strict=True):
                digest.update("\0".join([prompt, *responses]).encode())
            digest.update(part.scores.tobytes())
        given = [self.embeddings / f"{split}.safetensors" for split in _SPLITS] if self.embeddings else []
        for path in given:
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


def _personalllm(
    source: _Source, folder: Path, config: TrainConfig, settings: Protocol, *, force: bool, progress: Progress
) -> TrainOutcome:
    require_plotting()
    rows = {split: source.rows(split, settings.hub) for split in _SPLITS}
    begin(folder, {**config.to_json(), "settings": settings.to_json()}, source.fingerprint(rows.values()), force)
    clock = Clock()
    try:
        with clock.phase("embed"):
            table = _table(rows, source.embeddings, folder, config, progress)
        parts = _parts(table, settings.sampling, config.seed)
        write_json(folder / "split.json", parts.to_json())
        with clock.phase("fit"), noted() as caught:
            sweep = sweep_of(parts, config, table.reference, checkpoints=folder / "checkpoints", progress=progress)
    except LoreError:
        refuse(folder)
        raise
    version = importlib.metadata.version("lore-reward")
    basis = replace(sweep.chosen.basis, encoder=dict(table.encoder), provenance=config.provenance(settings.hub))
    basis.save(folder / "model")
    people = (*parts.seen_train.users, *parts.unseen_shots.users)
    weights = [fit_weights(part, basis).weights for part in (parts.seen_train, parts.unseen_shots)]
    save_users(folder / "users", people, torch.cat(weights))
    summary = Summary(
        title="personalllm",
        split=parts,
        sweep=sweep,
        counts=asdict(_counts(table, parts)),
        warnings=_warnings(table, config) + caught,
        encoder=dict(table.encoder),
        config={**config.to_json(), "settings": settings.to_json()},
        seconds=clock.seconds,
        version=version,
    )
    write_report(folder, summary)
    finish(folder)
    return TrainOutcome(folder, finding(sweep), sweep, parts)


def _counts(table: _Table, parts: Split) -> Counts:
    """What `lore check` would count; of texts it says nothing, as they may not have been read."""
    judged = torch.cat([part.counts for part in (parts.seen_train, parts.unseen_shots)]).double()
    return Counts(
        users=len(judged),
        comparisons=sum(len(part) for part in parts.parts().values()),
        ratings=False,
        prompts=len(table.scores),
        responses=len(table.vectors),
        conversations=len(table.vectors),
        groups=len(table.scores),
        per_user=judged.quantile(torch.linspace(0, 1, 5, dtype=torch.float64)).tolist(),
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
    rows: Mapping[str, Scored], embeddings: Path | None, folder: Path, config: TrainConfig, progress: Progress
) -> _Table:
    """Prompts that are in the test split, then those of training that are not; each once, with a scored response."""
    known: set[str] = set()
    kept: dict[str, list[int]] = {}
    for split in reversed(_SPLITS):
        usable = ~np.isnan(rows[split].scores.sum(axis=2)).all(axis=1)
        kept[split] = []
        for number, prompt in enumerate(rows[split].prompts):
            if usable[number] and prompt not in known:
                known.add(prompt)
                kept[split].append(number)
    scores = np.concatenate([rows[split].scores[kept[split]] for split in _SPLITS])
    count = len(kept["train"])
    texts = [text for split in _SPLITS for number in kept[split] for text in rows[split].responses[number]]
    if embeddings is not None:
        vectors, reference = _given(embeddings, rows, kept)
        made_by: Mapping[str, str | int] = {"encoder": "given files", "dtype": str(vectors.dtype)}
    else:
        vectors, reference, made_by = _encoded(rows, kept, folder, config, progress)
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


def _given(folder: Path, rows: Mapping[str, Scored], kept: Mapping[str, list[int]]) -> tuple[Tensor, Tensor | None]:
    """Embeddings that were made elsewhere: eight rows a prompt, in the order of the data set."""
    parts, reference = [], None
    for split in _SPLITS:
        path = folder / f"{split}.safetensors"
        try:
            with safe_open(path, "pt") as file:
                vectors = file.get_tensor("embeddings")
                if "reference" in file.keys():  # noqa: SIM118
                    reference = file.get_tensor("reference").flatten()
        except (OSError, SafetensorError) as error:
            raise DataError(f'{path}: cannot be read ({error}); give safetensors with the key "embeddings"') from None
        expected = RESPONSES * len(rows[split].prompts)
        if vectors.dim() != 2 or len(vectors) != expected:
            raise DataError(
                f"{path}: embeddings must be [{expected}, dim], eight rows a prompt, got {tuple(vectors.shape)}"
            )
        if not bool(vectors.isfinite().all()):
            raise DataError(f"{path}: embeddings must be finite; make them again")
        parts.append(vectors.float().view(-1, RESPONSES, vectors.shape[1])[kept[split]].flatten(0, 1))
    if parts[0].shape[1] != parts[1].shape[1]:
        raise DataError(f"{folder}: train and test have {parts[0].shape[1]} and {parts[1].shape[1]} numbers a row")
    if reference is not None and (len(reference) != parts[0].shape[1] or not bool(reference.isfinite().all())):
        raise DataError(f"{folder}: `reference` must be {parts[0].shape[1]} finite numbers, got {len(reference)}")
    return torch.cat(parts), reference


def _encoded(
    rows: Mapping[str, Scored], kept: Mapping[str, list[int]], folder: Path, config: TrainConfig, progress: Progress
) -> tuple[Tensor, Tensor | None, Mapping[str, str | int]]:
    builder = PreferencesBuilder(Origin())
    for split in _SPLITS:
        for number in kept[split]:
            for response in rows[split].responses[number]:
                builder.row(rows[split].prompts[number], response)
    mentioned, preferences = builder.rows(), builder.build()
    found = encode(preferences, config.encoder, folder / "embeddings", options=config.encoding, progress=progress)
    return found.vectors[found.rows(preferences)[torch.from_numpy(mentioned)]], found.reference, found.fingerprint


def _parts(table: _Table, sampling: Mapping[str, Any], seed: int) -> Split:
    """People are drawn, then the prompts that each of them judges, then what they choose."""
    rng = np.random.default_rng(seed)
    counts = {"seen": sampling["seen"], "unseen": sampling["unseen"]}
    scorers = table.scores.shape[2]
    people = {who: draw_weights(count, scorers, sampling["concentration"], rng) for who, count in counts.items()}
    vectors = table.vectors.view(len(table.scores), RESPONSES, -1)

    in_test = torch.isin(table.response, table.response[len(table.train) * RESPONSES :])

    def judged(who: str, prompts: NDArray[np.int64], share: float, leaks: Tensor) -> tuple[Pairs, int]:
        count = int(share * len(prompts))
        if count == 0:
            raise DataError(f"{share:.1%} of {len(prompts)} prompts is none; give more data")
        own = np.stack([rng.choice(prompts, count, replace=False) for _ in people[who]])
        choices = best_against_worst(table.scores, vectors, people[who], own)
        chosen, rejected = ((choices.prompt * RESPONSES + side).flatten() for side in (choices.best, choices.worst))
        leaking = leaks[chosen] | leaks[rejected]
        kept = ~leaking & (chosen != rejected)
        pairs = Pairs.from_rows(
            table.vectors,
            chosen[kept],
            rejected[kept],
            torch.arange(len(own)).repeat_interleave(count)[kept],
            users=[f"{who}-{number:04d}" for number in range(len(own))],
            group=torch.arange(len(table.scores)).repeat_interleave(RESPONSES),
        )
        return pairs, int(leaking.sum())

    nothing = torch.zeros_like(in_test)
    trained, dropped = judged("seen", table.train, sampling["train_share"], in_test)
    tested, _ = judged("seen", table.test, sampling["test_share"], nothing)
    shots, more = judged("unseen", table.train, sampling["shot_share"], in_test)
    tested_unseen, _ = judged("unseen", table.test, sampling["test_share"], nothing)
    return Split(trained, tested, shots, tested_unseen, dropped=dropped + more, shared=0)
