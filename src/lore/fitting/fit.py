"""`fit_basis`: learn the shared directions, and every user's weights, from pairs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from lore.errors import ConfigError, DataError, ShapeError
from lore.fitting.checkpoint import Checkpoint, fingerprint, written_on_interrupt
from lore.fitting.config import Fit, FitConfig
from lore.fitting.cost import predicted
from lore.fitting.gaussian_fit import fit_gaussian
from lore.fitting.simplex_fit import fit_simplex, iterate_resolved, resolve
from lore.fitting.validation import FitData
from lore.pairs.table import Pairs
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
    checkpoints: Sequence[Path | None] | None = None,
) -> list[Fit]:
    """Fit several configurations, as `fit_basis` does one; what they share is computed once.

    `checkpoints` has a path, or None, for each configuration.
    """
    fits = dict(iterate_fits(pairs, configs, reference, progress=progress, checkpoints=checkpoints))
    return [fits[number] for number in range(len(configs))]


def iterate_fits(
    pairs: Pairs,
    configs: Sequence[FitConfig],
    reference: Tensor | None = None,
    *,
    progress: Progress = silent,
    checkpoints: Sequence[Path | None] | None = None,
) -> Iterator[tuple[int, Fit]]:
    """Yield the number of each configuration and its fit, as soon as that is done.

    The checkpoint of a fit is removed when the next one is asked for. Arguments and errors are those of `fit_bases`.
    """
    pairs, reference = _checked(pairs, configs, reference)
    paths = checkpoints or [None] * len(configs)
    all_checkpoints = [_checkpoint(path, pairs, config, reference) for path, config in zip(paths, configs, strict=True)]
    data = FitData(pairs, reference)
    progress("fitting", 0, len(configs), _note(pairs, configs) if progress is not silent else "")
    done = 0
    for group in _groups(configs):
        checkpoints_of_group = [all_checkpoints[number] for number in group]
        fits = _fit_group(data, [configs[number] for number in group], checkpoints_of_group)
        while True:
            with written_on_interrupt(checkpoints_of_group), _threads(len(pairs)):
                position, fit = next(fits, (-1, None))
            if fit is None:
                break
            yield group[position], fit
            checkpoints_of_group[position].remove()
            done += 1
            progress("fitting", done, len(configs))


def _fit_group(
    data: FitData, configs: Sequence[FitConfig], checkpoints: Sequence[Checkpoint]
) -> Iterator[tuple[int, Fit]]:
    """Fit one configuration, or several whose strengths and ranks are all numbers, in the same passes."""
    if len(configs) == 1:
        fit = fit_gaussian if configs[0].family == "gaussian" else fit_simplex
        yield 0, fit(data, configs[0], checkpoints[0])
        return
    resolved = [resolve(data, *pair) for pair in zip(configs, checkpoints, strict=True)]
    yield from iterate_resolved(data, resolved, checkpoints)


def _groups(configs: Sequence[FitConfig]) -> list[list[int]]:
    """Return numbers of configurations to fit together: those with nothing to choose, then each of the others."""
    together = [number for number, config in enumerate(configs) if _is_resolved(config)]
    return [*([together] if together else []), *([number] for number in range(len(configs)) if number not in together)]


def _is_resolved(config: FitConfig) -> bool:
    chooses = "auto" in (config.strength, config.weight_strength, config.rank)
    return config.family == "simplex" and config.rank != 0 and not chooses


def _checked(pairs: Pairs, configs: Sequence[FitConfig], reference: Tensor | None) -> tuple[Pairs, Tensor | None]:
    """Return the pairs over a table of their own, and the reference as a vector `[dim]`."""
    pairs = pairs.compact()
    if len(pairs) == 0 or not bool(pairs.weight.sum() > 0):
        raise DataError("there are no pairs to learn from, or all weights are zero; give at least one comparison")
    if reference is not None:
        reference = reference.flatten().to(pairs.empty)
        if reference.shape != (pairs.dim,):
            raise ShapeError(f"`reference` must be [{pairs.dim}], got {tuple(reference.shape)}")
    for config in configs:
        _check(config, pairs, reference)
    return pairs, reference


@contextmanager
def _threads(pairs: int) -> Iterator[None]:
    """Use one thread for few pairs: more gain little there, and lose much if other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if pairs < _FEW_PAIRS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _note(pairs: Pairs, configs: Sequence[FitConfig]) -> str:
    """Return what the fits will cost, for the simplex family."""
    return "" if any(config.family == "gaussian" for config in configs) else str(predicted(pairs, configs))


def _checkpoint(path: Path | None, pairs: Pairs, config: FitConfig, reference: Tensor | None) -> Checkpoint:
    return Checkpoint(path, "" if path is None else fingerprint(pairs, config, reference))


def _check(config: FitConfig, pairs: Pairs, reference: Tensor | None) -> None:
    if config.rank != "auto" and config.rank > pairs.dim:
        raise ConfigError(f"`rank` must be at most the embeddings' {pairs.dim} numbers, got {config.rank}")
    if config.rank == 0 and reference is None and config.family == "simplex":
        raise ConfigError(
            "`rank` 0 is the reference itself, but there is none; give an encoder with a reward head, a reference, or "
            "a rank of 1 or more"
        )
    if config.penalty == "cosine" and (reference is None or not bool(reference.norm() > 0)):
        raise ConfigError("`penalty` 'cosine' needs a reference that is not zero; give one, or use 'distance'")
