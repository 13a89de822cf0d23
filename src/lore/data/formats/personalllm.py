"""PersonalLLM rows (namkoong-lab/PersonalLLM): a prompt, responses, and a score by each reward model.

Every reward model becomes a user who rates all responses; `lore.data.simulate` mixes them into users.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

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

_JUDGES = frozenset({"user_id", "user", "winner", "choice", "preference", "preferred", "label"})
_SCORE = re.compile(r"response_(\d+)_(.+)")
_RESPONSE = re.compile(r"response_(\d+)")


def is_scored(names: Iterable[Any]) -> bool:
    """Return True if columns hold scores of responses, and none says who judged or which response won."""
    columns = set(map(str, names))
    return any(map(_SCORE.fullmatch, columns)) and not columns & _JUDGES


def parse(row: Row, builder: PreferencesBuilder) -> None:
    """Add one rating for every score that is there; a missing score (null or NaN) is noted and left out."""
    prompt, scores = row.messages("prompt", "user"), list[tuple[str, str, float]]()
    for name, score in row.record.items():
        match = _SCORE.fullmatch(name)
        if match is None:
            continue
        if score is None or score != score:
            row.warn("missing score", "the response is left out for this scorer")
            continue
        row.required(f"response_{match[1]}")
        scores.append((match[1], match[2], row.number(name, None, -float("inf"), float("inf"))))
    scored_numbers = {number for number, _, _ in scores}
    responses = {
        match[1]: row.messages(name, "assistant")
        for name in row.record
        if (match := _RESPONSE.fullmatch(name)) and match[1] in scored_numbers
    }
    rows = {number: builder.row(prompt, response) for number, response in responses.items()}
    extra = {name: value for name, value in row.record.items() if not name.startswith(("response_", "prompt"))}
    for number, scorer, rating in scores:
        builder.rate(scorer, rows[number], rating, row.row_ref)
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
