"""`lore train`, whole and in steps: check, embed, split, fit, personalize, evaluate, report."""

import importlib.metadata
import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from lore.basis import Family, RewardBasis
from lore.check import CheckReport, check
from lore.config import Rank
from lore.embedding import EmbeddingPlan, Embeddings, EncoderOptions, encode, load_encoder, plan
from lore.embedding.store import TooLong
from lore.errors import ConfigError, ConvergenceWarning, DataError, LoreError, RunError
from lore.evaluate import Accuracy, Result, Sweep, accuracy, personal_ranks, run_sweep
from lore.experiments import Experiment, ProtocolName, experiment_split, read_protocol
from lore.files import read_json, write_json
from lore.fit import Fit, FitConfig, fit_basis
from lore.pairs import Pairs, Split, SplitBy, split
from lore.personalize import fit_weights
from lore.preferences import Preferences, as_json
from lore.progress import Progress, silent
from lore.report import Summary, finding, require_plotting, write_report
from lore.run import Run, begin, finish, read_state, refuse, save_users
from lore.sources import Reading, load


@dataclass(frozen=True)
class TrainConfig:
    """The arguments of `lore train`.

    Attributes:
        encoder: what `lore.embedding.load_encoder` takes.
        encoding: how it encodes.
        family: of the personal models; "auto" compares both, and held-out groups choose.
        ranks: to compare, as `lore.sweep` takes them; pooled (1) is always there.
        seed: of split, draws and fits.
        by: what is held out, "group" or "user" (each user's own groups).
        unseen: share of users kept out of learning the basis.
        test: share of groups held out.
        pairs_per_user: of ratings, in each part.
        train_pairs: comparisons of a seen user to learn from at most, drawn at random; all by default.
        shots: comparisons of an unseen user to learn from at most, drawn at random; all by default.
        half_life: days after which an older comparison counts half, by its `timestamp`; all count alike by default.
        redact: whether texts and ids stay out of the report.
        split_file: the `split.json` of a run on the same data, to take instead of `by`, `unseen` and `test`.
        experiment: whose split, shots and trials to take instead of `by`, `unseen` and `test`.
        protocol: of the experiment: our own way to fit, or the published one.
    """

    encoder: str = "minilm"
    family: Family | Literal["auto"] = "auto"
    ranks: Sequence[Rank] = (0, 1, "auto")
    seed: int = 0
    by: SplitBy = "group"
    unseen: float = 0.2
    test: float = 0.3
    pairs_per_user: int = 200
    train_pairs: int | None = None
    shots: int | None = None
    half_life: float | None = None
    redact: bool = False
    split_file: str | None = None
    experiment: Experiment | None = None
    protocol: ProtocolName = "lore"
    encoding: EncoderOptions = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        for name in ("pairs_per_user", "train_pairs", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be 1 or more, got {value}")
        if self.by not in ("group", "user"):
            raise ConfigError(f"`split` must be 'group' or 'user', got {self.by!r}")
        if not 0 <= self.unseen < 1 or not 0 < self.test < 1:
            raise ConfigError(f"`unseen` must be in [0, 1) and `test` in (0, 1), got {self.unseen} and {self.test}")
        for family in self.families:
            FitConfig(family=family, seed=self.seed)
            if any(rank != "auto" and rank < 0 for rank in self.ranks):
                raise ConfigError(f"`ranks` must be numbers of 0 or more, or 'auto', got {list(self.ranks)}")
            if not personal_ranks(family, self.ranks):
                least = 2 if family == "simplex" else 1
                raise ConfigError(
                    f"`ranks` must hold a personal model, of rank {least} or more, got {list(self.ranks)}"
                )

    @property
    def families(self) -> tuple[Family, ...]:
        """Of the personal models that are compared."""
        return ("simplex", "gaussian") if self.family == "auto" else (self.family,)

    def to_json(self) -> dict[str, Any]:
        """The arguments as JSON values."""
        return {**asdict(self), "ranks": list(self.ranks), "encoding": self.encoding.to_json()}

    def provenance(self, data: str) -> dict[str, Any]:
        """What a model folder says of how it was made, from the name or fingerprint of the data."""
        options = self.encoding.to_json()
        return {"data": data, "seed": self.seed, "encoder_argument": self.encoder, "encoder_options": options}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """The arguments that `to_json` wrote; other values, such as an experiment's settings, are left out."""
        own = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        return cls(**{**own, "encoding": EncoderOptions(**own.get("encoding", {}))})


@dataclass(frozen=True)
class TrainOutcome:
    """What `train` made: the folder, the finding in a sentence, and all results."""

    folder: Path
    finding: str
    sweep: Sweep
    split: Split


def train(
    reading: Reading,
    out: str | Path,
    config: TrainConfig | None = None,
    *,
    title: str = "comparisons",
    force: bool = False,
    progress: Progress = silent,
) -> TrainOutcome:
    """Check, embed, split, fit, personalize, evaluate and report: the main job.

    An unfinished run of the same data and arguments in `out` is resumed.

    Args:
        reading: from `lore.sources.read`.
        out: the RUN folder.
        config: the arguments.
        title: of the report.
        force: replace what is in `out`, embeddings excepted.
        progress: told of every step.

    Raises:
        DataError: the data cannot be learned from.
        RunError: `out` holds something else.
    """
    config = config or TrainConfig()
    require_plotting()
    preferences = reading.preferences
    checked = check(preferences, reading.findings)
    if config.half_life is not None:
        preferences.aged(config.half_life)  # refused here, before anything is done
    if checked.fatal:
        raise DataError(checked.fatal[0].message)
    folder = Path(out)
    begin(folder, recorded(config), preferences.fingerprint(), force)
    try:
        return _train(folder, checked, preferences, config, title, progress)
    except LoreError:
        refuse(folder)
        raise


def _train(
    folder: Path, checked: CheckReport, preferences: Preferences, config: TrainConfig, title: str, progress: Progress
) -> TrainOutcome:
    clock = Clock()
    preferences.to_parquet(folder / "preferences.parquet")
    with clock.phase("embed"):
        embeddings = _encoded(preferences, config, folder, progress)
    pairs, parts = _pairs_and_split(folder, preferences, embeddings, config)
    _save_split(folder, parts, preferences)
    with clock.phase("fit"), noted() as caught:
        sweep = sweep_of(parts, config, embeddings.reference, checkpoints=folder / "checkpoints", progress=progress)
    with clock.phase("personalize"):
        _save_model(folder, sweep.chosen, preferences, embeddings, config)
        _save_people(folder, pairs)
    summary = Summary(
        title=title,
        split=parts,
        sweep=sweep,
        counts=asdict(checked.counts),
        warnings=_warnings(checked, parts, caught, config, embeddings.reference, embeddings.too_long(preferences)),
        encoder=embeddings.fingerprint,
        config=recorded(config),
        seconds=clock.seconds,
        version=importlib.metadata.version("lore-reward"),
        texts=None if config.redact else preferences,
        pairs=pairs,
    )
    write_report(folder, summary)
    finish(folder)
    return TrainOutcome(folder, finding(sweep), sweep, parts)


def recorded(config: TrainConfig) -> dict[str, Any]:
    """The arguments of a run, with the settings of its experiment where it is one."""
    values = config.to_json()
    if config.experiment is not None:
        values["settings"] = read_protocol(config.experiment, config.protocol).to_json()
    return values


@contextmanager
def noted() -> Iterator[list[str]]:
    """The messages of convergence warnings in the block, which are for the report."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield messages
    messages += [str(entry.message) for entry in caught]


def sweep_of(
    parts: Split,
    config: TrainConfig,
    reference: Tensor | None,
    *,
    ranks: Sequence[Rank] | None = None,
    checkpoints: Path | None = None,
    progress: Progress = silent,
) -> Sweep:
    """The fits of a run, of other ranks if they are given, by the protocol of its experiment where it is one."""
    more: dict[str, Any] = {}
    if config.experiment is not None:
        protocol = read_protocol(config.experiment, config.protocol)
        method = protocol.recipe.method(config.seed) if protocol.recipe else None
        more = {"method": method, "shots": protocol.shots, "trials": protocol.trials}
    return run_sweep(
        parts,
        config.ranks if ranks is None else ranks,
        families=config.families,
        config=FitConfig(seed=config.seed),
        reference=reference,
        checkpoints=checkpoints,
        progress=progress,
        **more,
    )


def _warnings(
    checked: CheckReport,
    parts: Split,
    caught: Sequence[str],
    config: TrainConfig,
    reference: Tensor | None,
    too_long: TooLong,
) -> list[str]:
    lines = [found.message for found in checked.findings] + list(caught)
    if parts.dropped:
        lines.append(
            f"{parts.dropped} pairs straddle training and test, or share a response with a test pair, and were dropped"
        )
    if parts.shared:
        lines.append(f"{parts.shared} groups are in training for one user and in test for another (split by user)")
    if 0 in config.ranks and reference is None:
        lines.append("the encoder has no reward head of its own: rank 0, the reference, is left out")
    if message := too_long.message():
        lines.append(message)
    return lines


def _encoded(preferences: Preferences, config: TrainConfig, folder: Path, progress: Progress) -> Embeddings:
    return encode(preferences, config.encoder, folder / "embeddings", options=config.encoding, progress=progress)


class Clock:
    """Seconds spent in each phase."""

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


def _save_split(folder: Path, parts: Split, preferences: Preferences) -> None:
    write_json(folder / "split.json", {"data": preferences.fingerprint(), **parts.to_json()})


def _saved_split(path: Path, preferences: Preferences, pairs: Pairs) -> Split:
    """The split that lies in a file.

    Raises:
        DataError: it cannot be read, or is of other data.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("data") != preferences.fingerprint():
        raise DataError(f"{path}: is not the split of these data; give the split.json of a run on the same file")
    return Split.from_json(values, pairs)


def _pairs_and_split(
    folder: Path, preferences: Preferences, embeddings: Embeddings, config: TrainConfig
) -> tuple[Pairs, Split]:
    """All pairs, and their split: the one that the run has, or a new one with as many for training as are asked for."""
    aged = preferences if config.half_life is None else preferences.aged(config.half_life)
    pairs = Pairs.from_embeddings(aged, embeddings, pairs_per_user=config.pairs_per_user, seed=config.seed)
    if config.split_file is not None:
        return pairs, _saved_split(Path(config.split_file), preferences, pairs)
    if pairs.ratings is None and (folder / "split.json").exists():
        return pairs, _saved_split(folder / "split.json", preferences, pairs)
    if config.experiment is not None:
        protocol = read_protocol(config.experiment, config.protocol)
        return pairs, experiment_split(config.experiment, protocol, preferences, pairs, config.seed)
    parts = split(pairs, unseen=config.unseen, test=config.test, seed=config.seed, by=config.by)
    if config.train_pairs is not None:
        parts = replace(parts, seen_train=parts.seen_train.shots(config.train_pairs, config.seed))
    if config.shots is not None:
        parts = replace(parts, unseen_shots=parts.unseen_shots.shots(config.shots, config.seed))
    return pairs, parts


def _save_model(folder: Path, fit: Fit, preferences: Preferences, embeddings: Embeddings, config: TrainConfig) -> None:
    made_by = config.provenance(preferences.fingerprint())
    replace(fit.basis, encoder=embeddings.fingerprint, provenance=made_by).save(folder / "model")


def _save_people(folder: Path, pairs: Pairs) -> None:
    """Everybody's weights from all of their comparisons, by the basis that lies in the folder."""
    basis = RewardBasis.load(folder / "model")
    save_users(folder / "users", pairs.users, fit_weights(pairs, basis).weights)


# --- the same in steps --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prepared:
    """What the steps after embedding begin with."""

    preferences: Preferences
    embeddings: Embeddings
    pairs: Pairs
    split: Split
    config: TrainConfig


def embed_step(
    preferences: Preferences, out: str | Path, config: TrainConfig, *, force: bool = False, progress: Progress = silent
) -> Embeddings:
    """`lore embed`: begin a RUN folder and embed all conversations."""
    folder = Path(out)
    begin(folder, config.to_json(), preferences.fingerprint(), force)
    preferences.to_parquet(folder / "preferences.parquet")
    try:
        return _encoded(preferences, config, folder, progress)
    except LoreError:
        refuse(folder)
        raise


def plan_step(preferences: Preferences, out: str | Path, config: TrainConfig) -> EmbeddingPlan:
    """`lore embed --plan`: what embedding will cost; nothing is written."""
    encoder = load_encoder(config.encoder, config.encoding, preferences)
    return plan(preferences, encoder, Path(out) / "embeddings")


def conversation_lines(preferences: Preferences) -> str:
    """`lore embed --list`: one JSON line a distinct conversation, in order of appearance."""
    lines = []
    for row in range(preferences.rows):
        prompt, response = (as_json(turns) for turns in preferences.conversation(row))
        lines.append(json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False) + "\n")
    return "".join(lines)


def _prepared(run: str | Path) -> _Prepared:
    folder = Path(run)
    state = read_state(folder)["config"]
    if state.get("experiment") == "personalllm":
        raise RunError(f"{run}: its people are simulated; it is repeated whole, by `lore reproduce personalllm`")
    config = TrainConfig.from_json(state)
    preferences = load(folder / "preferences.parquet")
    embeddings = Embeddings.load(folder / "embeddings")
    return _Prepared(preferences, embeddings, *_pairs_and_split(folder, preferences, embeddings, config), config)


def pairs_of_run(run: str | Path) -> Pairs:
    """All comparisons of the people of a RUN folder, as their weights were learned from."""
    return _prepared(run).pairs


@dataclass(frozen=True)
class RunChoice:
    """One comparison of a run, by rows of its table of preferences."""

    user: str
    chosen: int
    rejected: int
    weight: float
    label: float


def choices_of_run(run: str | Path) -> list[RunChoice]:
    """The comparisons that people's weights were learned from; those drawn from ratings where these were given."""
    prepared = _prepared(run)
    pairs, embeddings = prepared.pairs, prepared.embeddings
    row = torch.arange(len(pairs.vectors))
    if pairs.vectors is embeddings.vectors:  # a large table is not copied: its rows are the store's
        place = embeddings.rows(prepared.preferences)
        row[place] = torch.arange(len(place))
    rejected = pairs.chosen if pairs.rejected is None else pairs.rejected
    columns = (pairs.user, row[pairs.chosen], row[rejected], pairs.weight, pairs.label)
    return [
        RunChoice(pairs.users[user], chosen, other, weight, label)
        for user, chosen, other, weight, label in zip(*(column.tolist() for column in columns), strict=True)
    ]


def fit_step(run: str | Path, config: FitConfig, *, force: bool = False) -> Fit:
    """`lore fit`: learn a basis from the seen users of a RUN folder, and everybody's weights.

    Raises:
        RunError: the run has a model already; with `force` that is replaced, and its report is removed.
    """
    if read_state(Path(run)).get("finished") and not force:
        raise RunError(f"{run}: has a model already; replace it, and drop its report, with --force")
    for name in ("report.html", "report.json"):
        (Path(run) / name).unlink(missing_ok=True)
    prepared = _prepared(run)
    fit = fit_basis(prepared.split.seen_train, config, prepared.embeddings.reference)
    _save_model(Path(run), fit, prepared.preferences, prepared.embeddings, prepared.config)
    _save_people(Path(run), prepared.pairs)
    _save_split(Path(run), prepared.split, prepared.preferences)
    finish(Path(run))
    return fit


def personalize_step(
    run: str | Path, preferences: Preferences, *, replace_known: bool = False, progress: Progress = silent
) -> int:
    """`lore personalize`: weights of the people in a table, with the basis of a RUN folder frozen; how many.

    People whose comparisons tell nothing are left as they were, and not counted.

    Raises:
        RunError: the run knows some of these people; with `replace_known` their weights are learned anew, from this
            table alone.
        DataError: nothing can be learned from the table.
    """
    known = Run.load(run)
    again = [user for user in preferences.users if user in known.users]
    if again and not replace_known:
        raise RunError(
            f"{run}: {len(again)} of these people are known already (such as {again[0]!r}); train on old and new "
            "comparisons together, or give a file of all that these people chose and --replace"
        )
    embeddings = encode(
        preferences, known.encoder, known.folder / "embeddings", options=known.options, progress=progress
    )
    half_life = TrainConfig.from_json(read_state(known.folder)["config"]).half_life
    pairs = Pairs.from_embeddings(preferences if half_life is None else preferences.aged(half_life), embeddings)
    told = pairs.counts > 0
    if not bool(told.any()):
        raise DataError(
            "no comparison tells anything: the sides of each are equal or too long, or its weight is 0; give others"
        )
    pairs = pairs.of_users(torch.nonzero(told).flatten())
    learned = dict(zip(pairs.users, fit_weights(pairs, known.basis).weights, strict=True))
    people = {user: known.weights[row] for user, row in known.users.items()} | learned
    save_users(known.folder / "users", list(people), torch.stack(list(people.values())))
    return len(learned)


def evaluate_step(run: str | Path) -> dict[str, Accuracy]:
    """`lore evaluate`: accuracy of the basis of a RUN folder in the settings of its split."""
    prepared, basis = _prepared(run), Run.load(run).basis
    parts = prepared.split.parts()
    seen, unseen = (fit_weights(parts[name], basis) for name in ("seen_train", "unseen_shots"))
    return {
        name: accuracy(part, basis, seen if name.startswith("seen") else unseen)
        for name, part in parts.items()
        if len(part)
    }


def sweep_step(run: str | Path, ranks: Sequence[Rank], *, progress: Progress = silent) -> list[Result]:
    """`lore sweep`: fit and evaluate several ranks on the split of a RUN folder."""
    prepared = _prepared(run)
    reference = prepared.embeddings.reference
    return sweep_of(prepared.split, prepared.config, reference, ranks=ranks, progress=progress).results
