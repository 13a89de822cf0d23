"""PersonalLLM rows (namkoong-lab/PersonalLLM): a prompt, responses, and a score by each reward model.

Every reward model becomes a user who rates all responses; `lore.data.simulate` mixes them into users.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lore.data.builder import PreferencesBuilder
from lore.data.formats.readers import Record
from lore.data.formats.rows import Row, RowContext, SkipRow
from lore.data.issues import IssueLog
from lore.errors import DataError

MODELS = (
    "gemma_2b",
    "gemma_7b",
    "mistral_raft",
    "llama3_sfairx",
    "oasst_deberta_v3",
    "beaver_7b",
    "oasst_pythia_7b",
    "oasst_pythia_1b",
    "mistral_ray",
    "mistral_weqweasdas",
)  # in the order of the published reward tensor
RESPONSES = 8

_SCORE = re.compile(r"response_(\d+)_(.+)")
_RESPONSE = re.compile(r"response_(\d+)")


def parse(row: Row, builder: PreferencesBuilder) -> None:
    """Add one rating for every score that is there; a missing score (null or NaN) is noted and left out."""
    prompt = row.messages("prompt", "user")
    rows = {
        match[1]: builder.row(prompt, row.messages(name, "assistant"))
        for name in row.record
        if (match := _RESPONSE.fullmatch(name))
    }
    extra = {name: value for name, value in row.record.items() if not name.startswith(("response_", "prompt"))}
    for name, score in row.record.items():
        match = _SCORE.fullmatch(name)
        if match is None:
            continue
        if score is None or score != score:
            row.warn("missing score", "the response is left out for this scorer")
            continue
        builder.rate(match[2], rows[match[1]], row.number(name, None, -float("inf"), float("inf")), row.row_ref)
        builder.keep(extra)


@dataclass(frozen=True)
class Scored:
    """The rows of one split.

    Attributes:
        prompts: texts.
        responses: eight texts to each.
        scores: by `MODELS`, NaN where one is missing, `[prompts, 8, 10]`.
    """

    prompts: list[str]
    responses: list[list[str]]
    scores: NDArray[np.float64]


def scored(records: Iterable[Record], issues: IssueLog, name: str) -> Scored:
    """Return the reward tensor of some rows; `name` is what messages call them.

    Raises:
        DataError: there are no rows, a row is not a published one, or a column of scores is missing.
    """
    prompts, responses, scores, context = [], [], [], RowContext(issues)
    for row_ref, record in records:
        try:
            prompt, texts, row_scores = _scored(Row(row_ref, record, context))
        except SkipRow:
            continue
        prompts.append(prompt)
        responses.append(texts)
        scores.append(row_scores)
    for fault in issues:
        raise DataError(fault.message)
    if not prompts:
        raise DataError(f"{name}: is empty; give at least one row")
    tensor = np.stack(scores)
    for model, column in zip(MODELS, tensor.reshape(-1, len(MODELS)).T, strict=True):
        if np.isnan(column).all():
            raise DataError(
                f"{name}: no scores by {model} (columns such as response_1_{model}); use the published rows"
            )
    return Scored(prompts, responses, tensor)


def _scored(row: Row) -> tuple[str, list[str], NDArray[np.float64]]:
    """Prompt, responses and scores `[8, 10]` of one row; a response that is not there has no scores."""
    scores = np.full((RESPONSES, len(MODELS)), np.nan)
    texts = []
    for number in range(RESPONSES):
        name = f"response_{number + 1}"
        text = row.record.get(name)
        texts.append("" if text is None else row.checked_text(name, text))
        for scorer, model in enumerate(MODELS):
            column = f"{name}_{model}"
            score = row.record.get(column)
            if text is not None and score is not None and score == score:
                scores[number, scorer] = row.number(column, None, -math.inf, math.inf)
    return row.text("prompt"), texts, scores
