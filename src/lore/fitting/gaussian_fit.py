"""Fits of the gaussian family: a population direction, and the covariance of tastes around it."""

from torch import Tensor

from lore.errors import ConfigError
from lore.fitting.checkpoint import Checkpoint
from lore.fitting.config import Fit, FitConfig
from lore.fitting.gaussian_model import GaussianModel, item_features
from lore.fitting.gaussian_search import GaussianSearch, ValidationFold
from lore.fitting.validation import FitData, Fold, fit_pooled


def fit_gaussian(data: FitData, config: FitConfig, checkpoint: Checkpoint) -> Fit:
    """Fit one configuration of the gaussian family.

    Args:
        data: the pairs.
        config: how to fit.
        checkpoint: of the fit; what it has is not computed again.

    Raises:
        ConfigError: the rank is above the number of features of the pairs.
    """
    features = item_features(data.pairs)
    if config.rank != "auto" and config.rank > features.shape[1]:
        raise ConfigError(f"`rank` must be at most the {features.shape[1]} features of these pairs, got {config.rank}")
    center, strength = _center(data, config, checkpoint)
    folds = [
        _validation_fold(data, fold, config, strength, checkpoint, number)
        for number, fold in enumerate(data.folds(config.seed))
    ]
    settings = GaussianSearch(folds, config, checkpoint).settings()
    model = GaussianModel.of(data.pairs, config, center, features).with_center_scale(settings.center_scale)
    covariance = model.covariance(settings)
    weights = model.posterior(covariance).weights
    loss = float(model.table.loss(model.margins(covariance, weights)))
    return Fit(
        basis=model.basis(covariance, settings.rank),
        weights=weights.to(center),
        loss=loss,
        objective=loss + float(weights.square().sum(1).mean()) / 2,
        gap=None,
        optimality=covariance.change,
        converged=True,
        strength=strength,
        validation=settings.validation,
        optimality_kind="covariance change",
    )


def _center(data: FitData, config: FitConfig, checkpoint: Checkpoint) -> tuple[Tensor, float]:
    """Return the pooled direction `[dim]`, and its strength."""
    if config.strength == "auto":
        pooled = data.pooled(config, checkpoint)
        return pooled.direction, pooled.strength
    return fit_pooled(data, data, config, config.strength).squeeze(1), config.strength


def _validation_fold(
    data: FitData, fold: Fold, config: FitConfig, strength: float, checkpoint: Checkpoint, number: int
) -> ValidationFold:
    """Return the model of the training part of a fold around its own center, with its held-out pairs."""
    name = f"center of fold {number}"
    if name not in checkpoint.tensors:
        checkpoint.keep({name: fit_pooled(data, fold, config, strength).squeeze(1)})
    center = checkpoint.tensors[name].to(data.pairs.empty)
    return ValidationFold.of(GaussianModel.of(fold.pairs, config, center, item_features(fold.pairs)), fold.held_out)
