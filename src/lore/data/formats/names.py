"""Names of the formats that are read."""

from typing import Literal

FormatName = Literal["comparisons", "unpaired", "ranked", "ratings", "personalllm", "prism", "tldr"]
