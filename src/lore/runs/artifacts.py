"""`Run`: the model of a finished RUN folder with its users, read again."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lore.embedding.options import EncoderOptions
from lore.errors import DataError, RunError, UnknownUser
from lore.files import JsonFormat, read_json, replacing
from lore.fitting.basis import RewardBasis
from lore.runs.folder import RunFolder

_IDS_FORMAT = JsonFormat(name="the list of user ids", number=1, fields=frozenset({"ids"}))


def save_users(folder: Path, ids: Sequence[str], weights: Tensor) -> None:
    """Write ids and weights `[users, columns]`: personal data, apart from the model."""
    with replacing(folder / "weights.safetensors") as beside:
        save_file({"weights": weights.detach().cpu().contiguous()}, beside)
    _IDS_FORMAT.write(folder / "ids.json", {"ids": list(ids)})


def read_users(folder: Path) -> tuple[list[str], Tensor]:
    """Return ids and weights `[users, columns]` that `save_users` wrote.

    Raises:
        RunError: they are missing, damaged, or of a newer format.
    """
    path = folder / "ids.json"
    try:
        stored = read_json(path)
        # Format 0 was the list itself.
        ids = stored if isinstance(stored, list) else _IDS_FORMAT.check(str(path), stored)[1]["ids"]
        return ids, load_file(folder / "weights.safetensors")["weights"]
    except (DataError, SafetensorError, FileNotFoundError, KeyError) as error:
        raise RunError(f"{folder}: missing or damaged ({error}); restore it or train again") from None


@dataclass(frozen=True)
class Run:
    """A finished run: the basis, and the weights of its users.

    Attributes:
        folder: path of the RUN folder.
        basis: shared directions.
        users: row of the weights for each id.
        weights: `[users, columns]`.
        encoder_argument: name for `load_encoder`; None if the run was trained with an `Encoder` object.
        options: for `load_encoder`.
    """

    folder: Path
    basis: RewardBasis
    users: dict[str, int] = field(repr=False)
    weights: Tensor = field(repr=False)
    encoder_argument: str | None = "minilm"
    options: EncoderOptions = field(default_factory=EncoderOptions)

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Read a finished RUN folder.

        Raises:
            RunError: it is missing, unfinished or damaged.
        """
        run = RunFolder(Path(folder))
        if not run.state()["finished"]:
            raise RunError(
                f"{run.path}: the run is not finished; repeat `lore train` to resume it, or go on with `lore fit`"
            )
        basis = RewardBasis.load(run.model)
        ids, weights = read_users(run.users)
        if weights.shape != (len(ids), basis.columns):
            raise RunError(f"{run.users}: does not belong to the model beside it; restore it or train again")
        return cls(
            folder=run.path,
            basis=basis,
            users={user: row for row, user in enumerate(ids)},
            weights=weights,
            encoder_argument=basis.provenance.get("encoder_argument", "minilm"),
            options=EncoderOptions.from_json(basis.provenance.get("encoder_options", {})),
        )

    @property
    def encoder(self) -> str:
        """Name for `load_encoder`.

        Raises:
            RunError: the run was trained with an `Encoder` object.
        """
        if self.encoder_argument is None:
            raise RunError(
                f"{self.folder}: was trained with an Encoder object, which has no name; give the same one as `encoder`"
            )
        return self.encoder_argument

    def weights_of(self, user: str) -> Tensor:
        """Return the weights of a user of the run, `[columns]`.

        Raises:
            UnknownUser: the run has no such user.
        """
        if user not in self.users:
            raise UnknownUser(f"no weights for user {user!r}; run `lore personalize` with their comparisons first")
        return self.weights[self.users[user]]
