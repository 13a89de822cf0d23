"""`fit_basis`: learn the shared directions, and everybody's weights, from pairs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lore.checkpoint import Checkpoint, fingerprint, written_on_interrupt
from lore.config import Fit, FitConfig
from lore.cost import predicted
from lore.errors import ConfigError, DataError, ShapeError
from lore.fitter import Fitter
from lore.pairs import Pairs
from lore.problem import Job, run, together
from lore.progress import Progress, silent

__all__ = ["Fit", "FitConfig", "fit_bases", "fit_basis"]

_FEW_PAIRS = 20_000  # up to which one thread is about as fast as two (docs/performance.md)


def fit_basis(
    pairs: Pairs,
    config: FitConfig | None = None,
    reference: Tensor | None = None,
    *,
    checkpoint: str | Path | None = None,
) -> Fit:
    """Learn a basis.

    Args:
        pairs: whose choices to learn from.
        config: how; the defaults of `FitConfig` where it is not given.
        reference: direction `[dim]` (or `[dim, 1]`) that the columns are drawn to; a reward LLM's own head.
        checkpoint: a file that an interrupted fit leaves, and from which it goes on; removed at the end.

    Raises:
        ConfigError: rank above dim, rank 0 or a cosine without a reference, "auto" with fewer than two groups; the
            checkpoint is of another fit.
        DataError: there are no pairs; the checkpoint is damaged.
        ShapeError: the reference does not fit.
    """
    return fit_bases(
        pairs, [config or FitConfig()], reference, checkpoints=[None if checkpoint is None else Path(checkpoint)]
    )[0]


def fit_bases(
    pairs: Pairs,
    configs: Sequence[FitConfig],
    reference: Tensor | None = None,
    *,
    progress: Progress = silent,
    keep: Callable[[int, Fit], None] | None = None,
    checkpoints: Sequence[Path | None] | None = None,
) -> list[Fit]:
    """`fit_basis` for several configurations; what they share (folds, the pooled direction) is computed once.

    `keep` is called with the number of a configuration and its fit as soon as that is done; `checkpoints` has a path,
    or None, for each configuration.
    """
    pairs = pairs.compact()
    if len(pairs) == 0 or not bool(pairs.weight.sum() > 0):
        raise DataError("there are no pairs to learn from, or all weights are zero; give at least one comparison")
    if reference is not None:
        reference = reference.flatten().to(pairs.like)
        if reference.shape != (pairs.dim,):
            raise ShapeError(f"`reference` must be [{pairs.dim}], got {tuple(reference.shape)}")
    for config in configs:
        _check(config, pairs, reference)
    paths = checkpoints or [None] * len(configs)
    kept = [_checkpoint(path, pairs, config, reference) for path, config in zip(paths, configs, strict=True)]
    fitter = Fitter(pairs, reference)
    fits: dict[int, Fit] = {}
    progress("fitting", 0, len(configs), _note(pairs, configs) if progress is not silent else "")

    def finished(number: int) -> Job[None]:
        fits[number] = yield from fitter.fit(configs[number], kept[number])
        if keep is not None:
            keep(number, fits[number])
        kept[number].remove()
        progress("fitting", len(fits), len(configs))

    for group in _sharing(configs):
        with written_on_interrupt([kept[number] for number in group]), _threads(len(pairs)):
            run(fitter.table, together([finished(number) for number in group]))
    return [fits[number] for number in range(len(configs))]


@contextmanager
def _threads(pairs: int) -> Iterator[None]:
    """One thread where pairs are few: more gain little there, and where other work shares the cores they lose much."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if pairs < _FEW_PAIRS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _note(pairs: Pairs, configs: Sequence[FitConfig]) -> str:
    """What the fits will cost, where that can be said."""
    return "" if any(config.family == "gaussian" for config in configs) else str(predicted(pairs, configs))


def _checkpoint(path: Path | None, pairs: Pairs, config: FitConfig, reference: Tensor | None) -> Checkpoint:
    return Checkpoint(path, "" if path is None else fingerprint(pairs, config, reference))


def _sharing(configs: Sequence[FitConfig]) -> list[list[int]]:
    """Numbers of configurations to fit together: those with nothing to choose share their passes over the data."""
    chosen = [number for number, config in enumerate(configs) if "auto" in (config.strength, config.weight_strength)]
    given = [number for number in range(len(configs)) if number not in chosen]
    return [*([given] if given else []), *([number] for number in chosen)]


def _check(config: FitConfig, pairs: Pairs, reference: Tensor | None) -> None:
    if config.rank != "auto" and config.rank > pairs.dim:
        raise ConfigError(f"`rank` must be at most the embeddings' {pairs.dim} numbers, got {config.rank}")
    if config.rank == 0 and reference is None and config.family == "simplex":
        raise ConfigError(
            "`rank` 0 is the reference itself, but there is none; pass `reference` or a rank of 1 or more"
        )
    if config.penalty == "cosine" and (reference is None or not bool(reference.norm() > 0)):
        raise ConfigError("`penalty` 'cosine' needs a reference that is not zero; pass `reference`, or use 'distance'")
