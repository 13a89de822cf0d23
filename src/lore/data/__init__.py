"""Users' comparisons and ratings as `Preferences`: read, checked, simulated."""

from typing import TYPE_CHECKING

from lore.exports import lazy_exports

if TYPE_CHECKING:
    from lore.data.builder import PreferencesBuilder as PreferencesBuilder
    from lore.data.checks import check as check
    from lore.data.formats import load as load
    from lore.data.formats import load_with_issues as load_with_issues
    from lore.data.preferences import Preferences as Preferences
    from lore.data.simulation import Population as Population
    from lore.data.simulation import simulate as simulate
    from lore.data.table import save_table as save_table

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Population": "simulation",
        "Preferences": "preferences",
        "PreferencesBuilder": "builder",
        "check": "checks",
        "load": "formats",
        "load_with_issues": "formats",
        "save_table": "table",
        "simulate": "simulation",
    },
)
