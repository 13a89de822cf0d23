"""Names of the formats that are read, and which end of a judgement is the liked one."""

from typing import Literal, get_args

RowFormat = Literal["comparisons", "pairwise", "unpaired", "ranked", "ratings", "personalllm", "prism", "tldr"]
ExportFormat = Literal[
    "arena",
    "argilla",
    "community_alignment",
    "comparia",
    "helpsteer",
    "label_studio",
    "nectar",
    "open_webui",
    "openai",
    "safe_rlhf",
    "shp",
    "swift",
    "ultrafeedback",
]
FormatName = RowFormat | ExportFormat

FORMATS: tuple[FormatName, ...] = get_args(RowFormat) + get_args(ExportFormat)

LIKED: dict[FormatName, str] = {
    "unpaired": "label true: liked",
    "ranked": "the first response is liked most",
    "ratings": "a higher rating is liked more",
    "helpsteer": "a negative strength: response 1 is liked; of ratings, a higher helpfulness",
    "nectar": "rank 1 is liked most",
    "open_webui": "rating 1: liked",
    "shp": "labels 1: the first is liked",
    "tldr": "choice 0: the first summary is liked",
}
