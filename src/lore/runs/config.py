"""`TrainConfig`: the arguments of `lore train`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from lore.embedding.encoder import Encoder
from lore.embedding.options import EncoderOptions
from lore.embedding.packaged import default_encoder
from lore.errors import ConfigError, RunError
from lore.evaluation.intervals import MIN_PAIRS
from lore.fitting.basis import Family
from lore.fitting.config import FitConfig, Rank, personal_ranks
from lore.pairs.splits import SplitBy

Experiment = Literal["personalllm", "prism", "tldr"]
ProtocolName = Literal["lore", "original"]

_SETTINGS = "settings"  # of an experiment, stored beside the arguments


@dataclass(frozen=True)
class TrainConfig:
    """The arguments of `lore train`.

    Attributes:
        encoder: an `Encoder`, or a name for `load_encoder`; `default_encoder()` by default.
        family: of the personal models; "auto" compares both, and held-out groups choose.
        ranks: to compare, as `lore.sweep` takes them; pooled (1) is always there.
        seed: of split, draws and fits.
        split_by: what is held out, "group" or "user" (each user's own groups).
        unseen: share of users kept out of learning the basis, in [0, 1).
        test: share of groups held out, in (0, 1).
        pairs_per_user: most pairs drawn from a user's ratings, in each part.
        train_pairs: most comparisons of a seen user to learn from, drawn at random; all by default.
        shots: most comparisons of an unseen user to learn from, drawn at random; all by default.
        min_pairs: test pairs that a user must have to be counted in accuracies, or as many as the median user has.
        splits: splits into training and test that the finding is the mean of; all but the first only for that.
        half_life: days after which an older comparison counts half, by its `timestamp`; all count alike by default.
        redact: whether texts and ids stay out of the report.
        split_file: the `split.json` of a run on the same data, to take instead of `split_by`, `unseen` and `test`.
        experiment: whose split, shots and trials to take instead of `split_by`, `unseen` and `test`.
        protocol: of the experiment: "lore", our own way to fit, or "original", the published one.
        encoding: options of the encoder.
    """

    encoder: str | Encoder = field(default_factory=default_encoder)
    family: Family | Literal["auto"] = "auto"
    ranks: Sequence[Rank] = (0, 1, "auto")
    seed: int = 0
    split_by: SplitBy = "group"
    unseen: float = 0.2
    test: float = 0.3
    pairs_per_user: int = 200
    train_pairs: int | None = None
    shots: int | None = None
    min_pairs: int = MIN_PAIRS
    splits: int = 1
    half_life: float | None = None
    redact: bool = False
    split_file: str | None = None
    experiment: Experiment | None = None
    protocol: ProtocolName = "lore"
    encoding: EncoderOptions = field(default_factory=EncoderOptions)

    def __post_init__(self) -> None:
        for name in ("pairs_per_user", "train_pairs", "shots", "min_pairs", "splits"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"`{name}` must be 1 or more, got {value}")
        if self.split_by not in ("group", "user"):
            raise ConfigError(f"`split_by` must be 'group' or 'user', got {self.split_by!r}")
        if not 0 <= self.unseen < 1 or not 0 < self.test < 1:
            raise ConfigError(f"`unseen` must be in [0, 1) and `test` in (0, 1), got {self.unseen} and {self.test}")
        if any(rank != "auto" and (type(rank) is not int or rank < 0) for rank in self.ranks):
            raise ConfigError(f"`ranks` must be whole numbers of 0 or more, or 'auto', got {list(self.ranks)}")
        if self.splits > 1 and (self.split_file is not None or self.experiment is not None):
            raise ConfigError("`splits` must be 1 with a given split; leave out `split_file`")
        for family in self.families:
            FitConfig(family=family, seed=self.seed)
            if not personal_ranks(family, self.ranks):
                lowest = 2 if family == "simplex" else 1
                raise ConfigError(
                    f"`ranks` must hold a personal model, of rank {lowest} or more, got {list(self.ranks)}"
                )

    @property
    def families(self) -> tuple[Family, ...]:
        """Families of the personal models that are compared."""
        return ("simplex", "gaussian") if self.family == "auto" else (self.family,)

    @property
    def encoder_name(self) -> str:
        """Name of the encoder; that in its fingerprint, or that of its class, if it is given as an object."""
        if isinstance(self.encoder, str):
            return self.encoder
        return str(self.encoder.fingerprint.get("encoder", type(self.encoder).__name__))

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as JSON values."""
        values = {argument.name: getattr(self, argument.name) for argument in fields(self)}
        return values | {
            "encoder": self.encoder_name,
            "ranks": list(self.ranks),
            "encoding": self.encoding.to_json(),
        }

    def provenance(self, data: str) -> dict[str, Any]:
        """Return what a model folder says of how it was made, from the name or fingerprint of the data.

        An encoder that was given as an object cannot be loaded by a name: its argument is None.
        """
        argument = self.encoder if isinstance(self.encoder, str) else None
        options = self.encoding.to_json()
        return {"data": data, "seed": self.seed, "encoder_argument": argument, "encoder_options": options}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainConfig":
        """Return the arguments that `to_json` wrote, without the settings of an experiment that lie beside them.

        Raises:
            RunError: there is an argument that this version does not have.
        """
        names = {argument.name for argument in fields(cls)}
        if unknown := sorted(values.keys() - names - {_SETTINGS}):
            raise RunError(f"run.json: unknown argument {unknown[0]!r}; read it with the version that wrote it")
        arguments = {name: value for name, value in values.items() if name != _SETTINGS}
        return cls(**{**arguments, "encoding": EncoderOptions.from_json(arguments.get("encoding", {}))})
