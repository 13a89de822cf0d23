"""`RewardBasis`: shared reward directions; scores responses for one user or many; saved without pickle."""

import importlib.metadata
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import load_file, save_file
from safetensors.torch import save as serialize
from torch import Tensor

from lore.errors import ConfigError, DataError, RunError, ShapeError
from lore.exports import compact_repr
from lore.files import read_json, replacing, write_json, write_text
from lore.solvers.products import product

Family = Literal["simplex", "gaussian"]
FORMAT = 2  # format 1 had no `ranges`
_READ = (1, FORMAT)


@dataclass(frozen=True, repr=False)
class RewardBasis:
    """Reward of user u for a response x: `(center + vectors @ w_u) . e(x)` (Bose et al. 2025, section 3).

    Attributes:
        vectors: shared directions `[dim, columns]`.
        center: population direction `[dim]`; zeros for the simplex family.
        population: weights of a user of whom nothing is known, `[columns]`.
        family: "simplex" (weights on the probability simplex) or "gaussian" (weights ~ N(0, I)).
        rank: number of learned directions; `columns` for the simplex family.
        temperature: of the link: P(a preferred to b) = sigmoid((r(a) - r(b)) / temperature).
        weight_strength: shrinkage of new users' weights toward `population` (simplex).
        encoder: fingerprint of the encoder whose embeddings these directions are for; empty if unknown.
        provenance: what made this basis.
        ranges: columns of an embedding that count how long a response is, with the range of each that was seen in
            training: beyond it they count no further, so that no response is the better for being longer without end.
    """

    vectors: Tensor
    center: Tensor
    population: Tensor
    family: Family
    rank: int
    temperature: float = 1.0
    weight_strength: float = 0.0
    encoder: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    ranges: dict[int, tuple[float, float]] = field(default_factory=dict)

    __repr__ = compact_repr

    def __post_init__(self) -> None:
        dim, columns = self.vectors.shape
        if self.center.shape != (dim,) or self.population.shape != (columns,):
            raise ShapeError(
                f"a basis [{dim}, {columns}] needs a center [{dim}] and a population [{columns}], "
                f"got {tuple(self.center.shape)} and {tuple(self.population.shape)}"
            )
        if self.family not in ("simplex", "gaussian"):
            raise ConfigError(f"`family` must be 'simplex' or 'gaussian', got {self.family!r}")
        if not self.temperature > 0:
            raise ConfigError(f"`temperature` must be positive, got {self.temperature}")

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.vectors.shape[0]

    @property
    def columns(self) -> int:
        """Numbers in a user's weights."""
        return self.vectors.shape[1]

    @property
    def has_tastes(self) -> bool:
        """True if users' rewards can differ at all; not so for pooled, and for the reference."""
        return self.columns > 1 if self.family == "simplex" else bool(self.vectors.any())

    def truncated(self, rank: int) -> "RewardBasis":
        """Return the basis of the first `rank` columns, in which a user is `rank` numbers.

        With the basis' own rank this drops how users differ in directions that no taste covers (gaussian family;
        docs/results.md says what that costs).
        """
        return replace(self, vectors=self.vectors[:, :rank], population=self.population[:rank])

    def coordinates(self, embeddings: Tensor) -> Tensor:
        """Rewards along each direction, `[responses, columns]`, of embeddings `[responses, dim]`."""
        self._check_dim(embeddings)
        vectors = self.vectors.to(embeddings)
        coordinates = product(embeddings, vectors)
        for column, beyond in self._beyond_ranges(embeddings):
            coordinates = coordinates - beyond[:, None] * vectors[column]
        return coordinates

    def common_rewards(self, embeddings: Tensor) -> Tensor:
        """Return the part of the reward that does not depend on the user, `[responses]`."""
        self._check_dim(embeddings)
        center = self.center.to(embeddings)
        rewards = embeddings @ center
        for column, beyond in self._beyond_ranges(embeddings):
            rewards = rewards - beyond * center[column]
        return rewards

    def _beyond_ranges(self, embeddings: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield how far the numbers of a column, `[responses]`, are outside its range, if any is."""
        for column, (low, high) in self.ranges.items():
            beyond = embeddings[:, column] - embeddings[:, column].clamp(low, high)
            if bool(beyond.any()):
                yield column, beyond

    def rewards(self, embeddings: Tensor, weights: Tensor) -> Tensor:
        """Rewards of responses.

        Args:
            embeddings: `[responses, dim]`.
            weights: `[columns]` for one user, `[users, columns]` for many.

        Returns:
            `[responses]` or `[users, responses]`.

        Raises:
            ShapeError: embeddings or weights do not fit this basis.
        """
        if weights.shape[-1] != self.columns or weights.dim() not in (1, 2):
            raise ShapeError(f"`weights` must end in {self.columns} columns, got {tuple(weights.shape)}")
        coordinates = self.coordinates(embeddings)
        return weights.to(embeddings) @ coordinates.T + self.common_rewards(embeddings)

    def _check_dim(self, embeddings: Tensor) -> None:
        if embeddings.dim() != 2 or embeddings.shape[1] != self.dim:
            raise ShapeError(f"`embeddings` must be [responses, {self.dim}], got {tuple(embeddings.shape)}")

    def _config(self) -> dict[str, Any]:
        """All but the tensors."""
        return {
            "format": FORMAT,
            "family": self.family,
            "rank": self.rank,
            "dim": self.dim,
            "columns": self.columns,
            "dtype": str(self.vectors.dtype).removeprefix("torch."),
            "temperature": self.temperature,
            "weight_strength": self.weight_strength,
            "encoder": self.encoder,
            "ranges": {str(column): list(ends) for column, ends in self.ranges.items()},
            "provenance": {"lore": importlib.metadata.version("lore-reward"), **self.provenance},
        }

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {"vectors": self.vectors, "center": self.center, "population": self.population}
        return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}

    @classmethod
    def _made(cls, where: str, config: dict[str, Any], tensors: dict[str, Tensor]) -> "RewardBasis":
        if config.get("format") not in _READ:
            raise RunError(f"{where}: model format {config.get('format')}, this version reads {FORMAT}; train it again")
        try:
            return cls(
                vectors=tensors["vectors"],
                center=tensors["center"],
                population=tensors["population"],
                family=config["family"],
                rank=config["rank"],
                temperature=config["temperature"],
                weight_strength=config["weight_strength"],
                encoder=config["encoder"],
                provenance=config["provenance"],
                ranges={int(column): (ends[0], ends[1]) for column, ends in config.get("ranges", {}).items()},
            )
        except KeyError as error:
            raise RunError(f"{where}: the model has no {error.args[0]!r}; restore it or train again") from None

    def save(self, folder: str | Path) -> None:
        """Write `config.json`, `model.safetensors` and a model card `README.md` into a folder.

        The card and the config come last and whole: a folder with a config is complete.
        """
        path, config = Path(folder), self._config()
        with replacing(path / "model.safetensors") as beside:
            save_file(self._tensors(), beside)
        write_text(path / "README.md", _card(config | {"tastes": self.has_tastes}))
        write_json(path / "config.json", config)

    @classmethod
    def load(cls, folder: str | Path) -> "RewardBasis":
        """Read a folder that `save` wrote.

        Raises:
            RunError: the folder is missing, of another format, or damaged.
        """
        path = Path(folder)
        try:
            config = read_json(path / "config.json")
            tensors = load_file(path / "model.safetensors")
        except DataError as error:
            raise RunError(f"{error}; give a folder that `lore train` or `RewardBasis.save` wrote") from None
        except (SafetensorError, FileNotFoundError) as error:
            raise RunError(
                f"{path / 'model.safetensors'}: missing or damaged ({error}); restore or train again"
            ) from None
        return cls._made(str(path), config, tensors)

    def serialized(self) -> tuple[str, bytes]:
        """Return what `save` writes, as JSON and as safetensors."""
        return json.dumps(self._config(), sort_keys=True), serialize(self._tensors())

    @classmethod
    def deserialized(cls, config: str, tensors: bytes) -> "RewardBasis":
        """Return the basis that `serialized` described.

        Raises:
            RunError: it is of another format, or damaged.
        """
        try:
            return cls._made("the stored model", json.loads(config), deserialize(tensors))
        except (SafetensorError, json.JSONDecodeError) as error:
            raise RunError(f"the stored model is damaged ({error}); restore the database or add it again") from None


_NO_TASTES = """

**No tastes were found**: the data did not tell users apart, and so this is one model for all of them."""


def _card(config: dict[str, Any]) -> str:
    """Return a model card in Markdown: what the folder is, what it was made from, and how to use it."""
    tastes = "" if config["tastes"] else _NO_TASTES
    front = "---\nlibrary_name: lore-reward\ntags: [reward-model, personalization]\n---\n"
    encoder = config["encoder"].get("encoder", "unknown")
    made = "\n".join(f"| {name} | {value} |" for name, value in config["provenance"].items())
    return f"""{front}
# A personal reward model

{config["columns"]} shared reward directions over {config["dim"]} numbers of the encoder `{encoder}`, family
`{config["family"]}`, temperature {config["temperature"]:g}. A user is a point of {config["columns"]} weights. The
weights of the users it was learned from are personal data and not in this folder.{tastes}

```python
import lore

basis = lore.RewardBasis.load("model")
rewards = basis.rewards(embeddings, basis.population)  # embeddings [responses, {config["dim"]}]
```

| made with | |
|---|---|
{made}

Rewards order responses to one prompt for one user. They are not comparable between prompts or users, and are only
as good as the comparisons: see the report of the run for accuracies with intervals and controls.
"""


def reference_basis(reference: Tensor, temperature: float = 1.0) -> RewardBasis:
    """Rank 0: the reward LLM's own head `[dim]`, the same for all users."""
    return RewardBasis(
        vectors=reference[:, None],
        center=torch.zeros_like(reference),
        population=torch.ones_like(reference[:1]),
        family="simplex",
        rank=0,
        temperature=temperature,
    )
