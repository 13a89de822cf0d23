"""`RewardBasis`, and learning it: `fit_basis` and `fit_weights`."""

from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.fitting.active import Question as Question
    from lore.fitting.active import next_comparison as next_comparison
    from lore.fitting.active import next_comparisons as next_comparisons
    from lore.fitting.basis import RewardBasis as RewardBasis
    from lore.fitting.config import Fit as Fit
    from lore.fitting.config import FitConfig as FitConfig
    from lore.fitting.cost import predicted as predicted
    from lore.fitting.fit import fit_bases as fit_bases
    from lore.fitting.fit import fit_basis as fit_basis
    from lore.fitting.likelihood import design_effect as design_effect
    from lore.fitting.personalize import UserWeights as UserWeights
    from lore.fitting.personalize import fit_weights as fit_weights

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Fit": "config",
        "FitConfig": "config",
        "Question": "active",
        "RewardBasis": "basis",
        "UserWeights": "personalize",
        "fit_bases": "fit",
        "fit_basis": "fit",
        "fit_weights": "personalize",
        "next_comparison": "active",
        "next_comparisons": "active",
        "predicted": "cost",
        "design_effect": "likelihood",
    },
)
