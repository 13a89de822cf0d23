"""`Preferences`: the one table of raw comparisons, in which every prompt and response is held once."""

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lore.data.issues import SourceLocations
from lore.data.messages import Messages, conversation_key, text_of
from lore.errors import ConfigError, DataError
from lore.exports import compact_repr

ALL_USERS = "all users"  # the one user of data that name no user

Integers = NDArray[np.int64]

Floats = NDArray[np.float64]

_NEVER = 1e300  # seconds that are no time

_LATEST = 1e11  # seconds since 1970 that are taken for milliseconds

_FORGOTTEN = 1e-6  # what a comparison counts at least, however old


@dataclass(frozen=True, repr=False)
class Ratings:
    """Ratings: user, row and rating, `[ratings]` each.

    `across_prompts` is True if items of different prompts are compared. That is so unless, for at least half of the
    ratings, the same user rated another response to the same prompt.
    """

    user: Integers
    row: Integers
    rating: Floats
    row_ref: Integers
    across_prompts: bool

    __repr__ = compact_repr

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True, repr=False)
class Preferences:
    """Comparisons ("this user chose this row over that one") or ratings, over conversations.

    A *row* is a conversation: a prompt and a response. Indices are int64 arrays.

    Attributes:
        users: ids, in order of appearance.
        prompts: distinct prompts, as turns.
        responses: distinct responses, as turns.
        row_prompt: prompt of each row, `[rows]`.
        row_response: response of each row, `[rows]`.
        row_group: what may not be split over train and test, `[rows]`.
        user: who compared, `[comparisons]`.
        chosen: preferred row, `[comparisons]`.
        rejected: other row, `[comparisons]`.
        weight: what the comparison counts, `[comparisons]`, not negative.
        label: probability that chosen is preferred, `[comparisons]`.
        row_ref: for messages, `[comparisons]`.
        ratings: given instead of comparisons, or None.
        extra: columns that LoRe does not read, one list of values a column, aligned with comparisons or ratings.
        origin: where the rows came from.
    """

    users: list[str]
    prompts: list[Messages]
    responses: list[Messages]
    row_prompt: Integers
    row_response: Integers
    row_group: Integers
    user: Integers
    chosen: Integers
    rejected: Integers
    weight: Floats
    label: Floats
    row_ref: Integers
    ratings: Ratings | None
    extra: dict[str, list[Any]]
    origin: SourceLocations = field(repr=False)

    __repr__ = compact_repr

    def __len__(self) -> int:
        return len(self.ratings) if self.ratings is not None else len(self.user)

    @property
    def rows(self) -> int:
        """Number of distinct conversations."""
        return len(self.row_prompt)

    def preferred(self) -> tuple[Integers, Integers]:
        """Return the rows that were preferred and the others, `[comparisons]`: where a label is below 1/2, swapped."""
        first = self.label >= 1 / 2
        return np.where(first, self.chosen, self.rejected), np.where(first, self.rejected, self.chosen)

    def conversation(self, row: int) -> tuple[Messages, Messages]:
        """Prompt and response of a row."""
        return self.prompts[self.row_prompt[row]], self.responses[self.row_response[row]]

    @cached_property
    def response_lengths(self) -> Integers:
        """Characters of each response, `[responses]`."""
        lengths = (len(text_of(turns)) for turns in self.responses)
        return np.fromiter(lengths, dtype=np.int64, count=len(self.responses))

    def conversation_keys(self) -> list[bytes]:
        """Return `conversation_key` of every row; each text is hashed once."""
        return self._keys

    @cached_property
    def _keys(self) -> list[bytes]:
        return [conversation_key(*self.conversation(row)) for row in range(self.rows)]

    def fingerprint(self) -> str:
        """Return a hash that is equal for the same comparisons by the same users, and for nothing else."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = blake2b(digest_size=16)
        for key in self.conversation_keys():
            digest.update(key)
        digest.update("\0".join(self.users).encode("utf-8", "surrogatepass"))
        columns = [self.row_group, self.user, self.chosen, self.rejected, self.weight, self.label]
        if self.ratings is not None:
            columns += [self.ratings.user, self.ratings.row, self.ratings.rating]
        for column in columns:
            digest.update(column.tobytes())
        return digest.hexdigest()

    def with_time_decay(self, half_life: float) -> "Preferences":
        """Return the same comparisons, each of half the weight for every `half_life` days before its user's newest.

        Raises:
            ConfigError: `half_life` is not positive.
            DataError: these are ratings, or a comparison has no `timestamp` (seconds since 1970, or ISO 8601).
        """
        if not 0 < half_life < math.inf:
            raise ConfigError(f"`half_life` must be a positive number of days, got {half_life}")
        timestamps = self.extra.get("timestamp")
        if self.ratings is not None or timestamps is None:
            raise DataError("`half_life` needs comparisons with a `timestamp` column; add one, or leave it out")
        seconds = np.array([seconds_of(value) for value in timestamps])
        unknown = np.flatnonzero(~np.isfinite(seconds))
        if len(unknown):
            where = self.origin.describe(self.row_ref[unknown[:5]].tolist(), len(unknown))
            raise DataError(
                f"{where}: `timestamp` must be seconds since 1970 or ISO 8601 where there is a half-life, "
                f"got {timestamps[unknown[0]]!r}"
            )
        newest = np.full(len(self.users), -np.inf)
        np.maximum.at(newest, self.user, seconds)
        late = np.flatnonzero(np.abs(seconds) > _LATEST)
        if len(late):
            raise DataError(
                f"{self.origin.describe(self.row_ref[late[:5]].tolist(), len(late))}: `timestamp` "
                f"{timestamps[late[0]]!r} is "
                "beyond the year 5000 as seconds since 1970; divide milliseconds by 1,000"
            )
        days = (newest[self.user] - seconds) / 86_400
        # What is all but forgotten still counts for something: a user without any weight would have no choices.
        aged = replace(self, weight=self.weight * np.maximum(0.5 ** (days / half_life), _FORGOTTEN))
        aged.__dict__["_keys"] = self._keys  # the same conversations
        return aged


def _number(text: str) -> float:
    """Return the number that a text spells, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def seconds_of(timestamp: Any) -> float:
    """Seconds since 1970 of a number, a date or its ISO 8601 text, which is UTC where it says nothing else; or NaN."""
    if isinstance(timestamp, str):
        try:
            timestamp = datetime.fromisoformat(timestamp)
        except ValueError:
            return _number(timestamp)
    if isinstance(timestamp, date) and not isinstance(timestamp, datetime):
        timestamp = datetime(timestamp.year, timestamp.month, timestamp.day, tzinfo=UTC)
    if isinstance(timestamp, datetime):
        return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float) or abs(timestamp) > _NEVER:
        return math.nan
    return float(timestamp)
