"""The formats that are read: by which columns each is known, and how its rows become judgements."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lore.data.builder import PreferencesBuilder
from lore.data.formats import (
    arena,
    argilla,
    community,
    comparia,
    comparisons,
    helpsteer,
    judgements,
    label_studio,
    nectar,
    open_webui,
    openai,
    pairwise,
    personalllm,
    prism,
    rating_folder,
    safe_rlhf,
    shp,
    swift,
    tldr,
    ultrafeedback,
)
from lore.data.formats.names import FormatName
from lore.data.formats.rows import Row

Export = Callable[[Row], Iterator[dict[str, Any]]]
Signs = tuple[frozenset[str], ...]

# Formats whose rows are made into rows of other ones; the most telling columns come first.
_EXPORTS: dict[FormatName, tuple[Signs, Export]] = {
    "comparia": (comparia.SIGNS, comparia.rows),
    "arena": (arena.SIGNS, arena.rows),
    "community_alignment": (community.SIGNS, community.rows),
    "open_webui": (open_webui.SIGNS, open_webui.rows),
    "openai": (openai.SIGNS, openai.rows),
    "swift": (swift.SIGNS, swift.rows),
    "label_studio": (label_studio.SIGNS, label_studio.rows),
    "argilla": (argilla.SIGNS, argilla.rows),
    "helpsteer": (helpsteer.SIGNS, helpsteer.rows),
    "safe_rlhf": (safe_rlhf.SIGNS, safe_rlhf.rows),
    "shp": (shp.SIGNS, shp.rows),
    "ultrafeedback": (ultrafeedback.SIGNS, ultrafeedback.rows),
    "nectar": (nectar.SIGNS, nectar.rows),
}
# Formats of single judgements, the most telling columns first.
_JUDGEMENTS: dict[FormatName, frozenset[str]] = {
    "tldr": frozenset({"worker", "summaries", "choice"}),
    "comparisons": frozenset({"chosen", "rejected"}),
    "pairwise": frozenset({"left", "right", "winner"}),
    "unpaired": frozenset({"completion", "label"}),
    "ranked": frozenset({"responses"}),
    "ratings": frozenset({"response", "rating"}),
    "personalllm": frozenset({"prompt", "response_1", "response_2"}),
}
FOLDERS: dict[FormatName, tuple[frozenset[str], Callable[..., None]]] = {
    "ratings": (rating_folder.FILES, rating_folder.parse_folder),
    "prism": (prism.FILES, prism.parse_folder),
}


def export_of(format_name: FormatName | None, names: Mapping[str, Any]) -> tuple[FormatName, Export] | None:
    """Return the export format of a name, or of some columns, with how it is read; None if it is not one."""
    if format_name is not None:
        return (format_name, _EXPORTS[format_name][1]) if format_name in _EXPORTS else None
    for name, signs in _JUDGEMENTS.items():
        if name != "personalllm" and signs <= names.keys():
            return None
    for name, (each, rows) in _EXPORTS.items():
        if any(signs <= names.keys() for signs in each) or (name == "argilla" and argilla.is_export(names)):
            return name, rows
    return None


def judgement_of(names: Mapping[str, Any]) -> FormatName | None:
    """Return the format of single judgements that some columns are known by; None if there is none."""
    recognized = next((name for name, signs in _JUDGEMENTS.items() if signs <= names.keys()), None)
    if recognized == "personalllm" and not personalllm.is_scored(names):
        return None
    return recognized


def parsers(builder: PreferencesBuilder) -> dict[FormatName, Callable[[Row], None]]:
    """Return what adds one row of each format of judgements to a builder."""
    return {
        "comparisons": comparisons.Parser(builder).parse,
        "ranked": judgements.RankedParser(builder).parse,
        "pairwise": lambda row: pairwise.parse(row, builder),
        "unpaired": lambda row: judgements.parse_unpaired(row, builder),
        "ratings": lambda row: judgements.parse_rating(row, builder),
        "personalllm": lambda row: personalllm.parse(row, builder),
        "tldr": lambda row: tldr.parse(row, builder),
    }
