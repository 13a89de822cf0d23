"""`Preferences`: the one table of raw comparisons, in which every prompt and response is held once."""

import json
import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NewType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lore.errors import ConfigError, DataError
from lore.files import replacing

Turn = tuple[str, str]
Turns = tuple[Turn, ...]
Said = Turns | str  # a text alone is one turn of the role that is expected: user in a prompt, assistant in a response
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Place = NewType("Place", int)

_LATEST = 1e11  # seconds since 1970 that are taken for milliseconds
_FORGOTTEN = 1e-6  # what a comparison counts at least, however old
_WITHIN = 0.5  # share of ratings with another one to the same prompt, from which pairs are made within prompts
ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})


def text_of(turns: Turns) -> str:
    """The words of some turns, without their roles."""
    return turns[0][1] if len(turns) == 1 else "\n".join(content for _, content in turns)


def as_said(turns: Turns, role: str) -> Said:
    """Some turns, as their text alone where they are one turn of `role`."""
    return turns[0][1] if len(turns) == 1 and turns[0][0] == role else turns


def as_json(turns: Turns) -> list[dict[str, str]]:
    """Turns in the form of chat messages."""
    return [{"role": role, "content": content} for role, content in turns]


def _as_turns(said: Said, role: str) -> Turns:
    return ((role, said),) if isinstance(said, str) else said


def conversation_key(prompt: Turns, response: Turns) -> bytes:
    """16 bytes that stand for a conversation, the same on every machine."""
    text = json.dumps([prompt, response], ensure_ascii=True, separators=(",", ":"))
    return blake2b(text.encode("ascii"), digest_size=16).digest()


@dataclass(frozen=True)
class Finding:
    """Something that `lore check` says about a file.

    Attributes:
        kind: a few words, the same for all findings of a kind.
        fatal: whether `lore train` refuses the file for it.
        message: what is wrong, where, and what to do: one sentence.
        count: how many rows it concerns.
    """

    kind: str
    fatal: bool
    message: str
    count: int


class Findings:
    """Collects what is wrong with single rows, a few places of each kind."""

    _EXAMPLES = 5

    def __init__(self, origin: "Origin") -> None:
        self.origin = origin
        self._places: dict[tuple[str, bool, str], list[Place]] = {}
        self._counts: dict[tuple[str, bool, str], int] = {}

    def add(self, kind: str, place: Place, remedy: str, fatal: bool = True) -> None:
        """Note that the row at `place` has a fault of this kind."""
        key = (kind, fatal, remedy)
        self._counts[key] = self._counts.get(key, 0) + 1
        places = self._places.setdefault(key, [])
        if len(places) < self._EXAMPLES:
            places.append(place)

    def __iter__(self) -> Iterator[Finding]:
        for (kind, fatal, remedy), places in self._places.items():
            count = self._counts[kind, fatal, remedy]
            yield Finding(kind, fatal, f"{self.origin.describe(places, count)}: {kind}; {remedy}", count)


class Origin:
    """Where rows came from: files, and the line or row in each."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.unit: list[str] = []
        self._file, self._number = array("i"), array("q")

    def open(self, name: str, unit: str) -> None:
        """The rows that follow are from this file and counted in this unit ("line" or "row")."""
        self.files.append(name)
        self.unit.append(unit)

    def at(self, number: int) -> Place:
        """Note the next row; `number` counts from 1."""
        self._file.append(len(self.files) - 1)
        self._number.append(number)
        return Place(len(self._number) - 1)

    def add(self, rows: int) -> Place:
        """Note the next `rows` rows, which follow the last one of a file without a gap; the place of the first."""
        first = Place(len(self._number))
        number = self._number[-1] if first and self._file[-1] == len(self.files) - 1 else 0
        self._file.extend([len(self.files) - 1] * rows)
        self._number.extend(range(number + 1, number + rows + 1))
        return first

    def __len__(self) -> int:
        return len(self._number)

    def describe(self, places: Sequence[Place], count: int) -> str:
        """For example `data.jsonl, lines 7, 9 and 12 more`."""
        if not places:
            return ", ".join(self.files)
        file = self._file[places[0]]
        numbers = [str(self._number[place]) for place in places if self._file[place] == file]
        more = count - len(numbers)
        listed = ", ".join(numbers) + (f" and {more} more" if more else "")
        return f"{self.files[file]}, {self.unit[file]}{'s' if count > 1 else ''} {listed}"


@dataclass(frozen=True)
class Ratings:
    """Who rated what how high, `[ratings]` each.

    `across` says whether items of different prompts are compared: unless, for at least half of the ratings, the same
    user rated another response to the same prompt.
    """

    user: Integers
    row: Integers
    rating: Floats
    place: Integers
    across: bool

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
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
        place: for messages, `[comparisons]`.
        ratings: given instead of comparisons, or None.
        extra: columns that LoRe does not read, one list of values a column, aligned with comparisons or ratings.
        origin: where the rows came from.
    """

    users: list[str]
    prompts: list[Turns]
    responses: list[Turns]
    row_prompt: Integers
    row_response: Integers
    row_group: Integers
    user: Integers
    chosen: Integers
    rejected: Integers
    weight: Floats
    label: Floats
    place: Integers
    ratings: Ratings | None
    extra: dict[str, list[Any]]
    origin: Origin = field(repr=False)

    def __len__(self) -> int:
        return len(self.ratings) if self.ratings is not None else len(self.user)

    @property
    def rows(self) -> int:
        """Number of distinct conversations."""
        return len(self.row_prompt)

    def conversation(self, row: int) -> tuple[Turns, Turns]:
        """Prompt and response of a row."""
        return self.prompts[self.row_prompt[row]], self.responses[self.row_response[row]]

    def conversation_keys(self) -> list[bytes]:
        """`conversation_key` of every row."""
        return [conversation_key(*self.conversation(row)) for row in range(self.rows)]

    def fingerprint(self) -> str:
        """The same for the same comparisons by the same users, and for nothing else."""
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

    def without(self, user: str) -> "Preferences":
        """The table without a person, and without what only they compared or rated."""
        builder = PreferencesBuilder(self.origin)
        number = self.users.index(user)
        kept = {name: iter(values) for name, values in self.extra.items()}
        groups = self.row_group.tolist()

        def mention(row: int) -> int:
            return builder.row(*self.conversation(row), group=f"g{groups[row]}")

        if self.ratings is not None:
            rated = (self.ratings.user, self.ratings.row, self.ratings.rating, self.ratings.place)
            for rater, row, rating, place in zip(*(column.tolist() for column in rated), strict=True):
                extra = {name: next(values) for name, values in kept.items()}
                if rater != number:
                    builder.rate(self.users[rater], mention(row), rating, place)
                    builder.keep(extra)
            return builder.build()
        columns = (self.user, self.chosen, self.rejected, self.weight, self.label, self.place)
        for who, chosen, rejected, weight, label, place in zip(*(column.tolist() for column in columns), strict=True):
            extra = {name: next(values) for name, values in kept.items()}
            if who != number:
                sides = mention(chosen), mention(rejected)
                builder.compare(self.users[who], *sides, place, weight=weight, label=label)
                builder.keep(extra)
        return builder.build()

    def aged(self, half_life: float) -> "Preferences":
        """The same comparisons, each of half the weight for every `half_life` days before its user's newest.

        Raises:
            ConfigError: `half_life` is not positive.
            DataError: these are ratings, or a comparison has no `timestamp` (seconds since 1970, or ISO 8601).
        """
        if not 0 < half_life < math.inf:
            raise ConfigError(f"`half_life` must be a positive number of days, got {half_life}")
        given = self.extra.get("timestamp")
        if self.ratings is not None or given is None:
            raise DataError("`half_life` needs comparisons with a `timestamp` column; add one, or leave it out")
        seconds = np.array([_seconds(value) for value in given])
        unknown = np.flatnonzero(~np.isfinite(seconds))
        if len(unknown):
            where = self.origin.describe(self.place[unknown[:5]].tolist(), len(unknown))
            raise DataError(
                f"{where}: `timestamp` must be seconds since 1970 or ISO 8601 where there is a half-life, "
                f"got {given[unknown[0]]!r}"
            )
        newest = np.full(len(self.users), -np.inf)
        np.maximum.at(newest, self.user, seconds)
        late = np.flatnonzero(np.abs(seconds) > _LATEST)
        if len(late):
            raise DataError(
                f"{self.origin.describe(self.place[late[:5]].tolist(), len(late))}: `timestamp` {given[late[0]]!r} is "
                "beyond the year 5000 as seconds since 1970; divide milliseconds by 1,000"
            )
        days = (newest[self.user] - seconds) / 86_400
        # What is all but forgotten still counts for something: a person without any weight would have no choices.
        return replace(self, weight=self.weight * np.maximum(0.5 ** (days / half_life), _FORGOTTEN))

    def to_parquet(self, path: Path) -> None:
        """Write the table so that `lore.load` reads it again."""
        with replacing(path) as beside:
            pq.write_table(self._table(), beside, compression="zstd")

    def _table(self) -> pa.Table:
        turn = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
        prompts = pa.array([_as_messages(turns) for turns in self.prompts], type=turn)
        responses = pa.array([_as_messages(turns) for turns in self.responses], type=turn)
        users = pa.array(self.users, type=pa.string())
        groups = [f"g{group}" for group in self.row_group.tolist()]
        if self.ratings is not None:
            columns = {
                "user_id": users.take(pa.array(self.ratings.user)),
                "prompt": prompts.take(pa.array(self.row_prompt[self.ratings.row])),
                "response": responses.take(pa.array(self.row_response[self.ratings.row])),
                "rating": pa.array(self.ratings.rating),
                "group": pa.array([groups[row] for row in self.ratings.row]),
            }
        else:
            columns = {
                "user_id": users.take(pa.array(self.user)),
                "prompt": prompts.take(pa.array(self.row_prompt[self.chosen])),
                "chosen": responses.take(pa.array(self.row_response[self.chosen])),
                "rejected": responses.take(pa.array(self.row_response[self.rejected])),
                "weight": pa.array(self.weight),
                "label": pa.array(self.label),
                "group": pa.array([groups[row] for row in self.chosen]),
            }
        for name, values in self.extra.items():
            columns[name] = _column(values)
        return pa.table(columns)


def _number(text: str) -> float:
    """What a text says, as the files that hold nothing but texts say numbers; or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _seconds(timestamp: Any) -> float:
    """Seconds since 1970 of a number, a date or its ISO 8601 text, which is UTC where it says nothing else; or NaN."""
    if isinstance(timestamp, str):
        try:
            timestamp = datetime.fromisoformat(timestamp)
        except ValueError:
            return _number(timestamp)
    if isinstance(timestamp, datetime):
        return (timestamp if timestamp.tzinfo else timestamp.replace(tzinfo=UTC)).timestamp()
    return float(timestamp) if isinstance(timestamp, int | float) and not isinstance(timestamp, bool) else math.nan


def _as_messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def _column(values: list[Any]) -> pa.Array:
    """An Arrow column; values of mixed types are kept as JSON text."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else json.dumps(value, default=str) for value in values])


class PreferencesBuilder:
    """Collects rows and comparisons, keeping every prompt, response and conversation once."""

    def __init__(self, origin: Origin | None = None) -> None:
        self.origin = origin or Origin()
        self._users: dict[str, int] = {}
        self._prompts: dict[Said, int] = {}
        self._last_prompt: Said | None = None
        self._asked = 0
        self._responses: dict[Said, int] = {}
        self._prompt_of, self._response_of = array("q"), array("q")  # of each mention of a conversation
        self._groups: list[tuple[int, str]] = []
        self._user, self._chosen, self._rejected, self._place = (array("q") for _ in range(4))
        self._weight, self._label = array("d"), array("d")
        self._rater, self._rated, self._rating_place = (array("q") for _ in range(3))
        self._rating = array("d")
        self._extra: dict[str, list[Any]] = {}

    def row(self, prompt: Said, response: Said, group: str | None = None) -> int:
        """A mention of a conversation, to be compared or rated; `build` makes one row of equal ones.

        A `group` given here replaces the prompt as what may not be split.
        """
        if prompt is not self._last_prompt:  # both sides of a comparison ask the same
            asked = prompt if isinstance(prompt, str) else as_said(prompt, "user")
            self._asked = self._prompts.setdefault(asked, len(self._prompts))
            self._last_prompt = prompt
        if not isinstance(response, str):
            response = as_said(response, "assistant")
        mention = len(self._prompt_of)
        self._prompt_of.append(self._asked)
        self._response_of.append(self._responses.setdefault(response, len(self._responses)))
        if group is not None:
            self._groups.append((mention, group))
        return mention

    def rows(self) -> Integers:
        """The row in the finished table of each mention so far, `[mentions]`; rows are in order of appearance."""
        return self._conversations()[1]

    def _conversations(self) -> tuple[Integers, Integers]:
        """The first mention of each row, `[rows]`, and the row of each mention, `[mentions]`."""
        key = (_integers(self._prompt_of) << 32) | _integers(self._response_of)
        _, first, row = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(first)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return first[order], position[row]

    def compare(
        self, user: str, chosen: int, rejected: int, place: Place, *, weight: float = 1.0, label: float = 1.0
    ) -> None:
        """Add "`user` chose `chosen` over `rejected`", both mentioned before."""
        self._user.append(self._users.setdefault(user, len(self._users)))
        self._chosen.append(chosen)
        self._rejected.append(rejected)
        self._weight.append(weight)
        self._label.append(label)
        self._place.append(place)

    def compare_all(self, users: list[str], prompts: list[str], sides: list[str]) -> None:
        """Add a comparison for each of the next rows of the origin, which hold nothing but texts.

        Args:
            users: who compared, `[rows]`.
            prompts: what both responses answer, `[rows]`; an empty text is no prompt.
            sides: the chosen and the rejected response of each row in turn, `[2 * rows]`.
        """
        mention = np.arange(len(self._prompt_of), len(self._prompt_of) + len(sides))
        place = self.origin.add(len(users))
        _extend(self._user, _interned(self._users, users))
        _extend(self._prompt_of, np.repeat(_interned(self._prompts, [text or () for text in prompts]), 2))
        _extend(self._response_of, _interned(self._responses, sides))
        _extend(self._chosen, mention[::2])
        _extend(self._rejected, mention[1::2])
        _extend(self._place, np.arange(place, place + len(users)))
        for column in (self._weight, self._label):
            column.extend([1.0] * len(users))

    def rate(self, user: str, mention: int, rating: float, place: Place) -> None:
        """Add "`user` gave the conversation of this mention this rating"."""
        self._rater.append(self._users.setdefault(user, len(self._users)))
        self._rated.append(mention)
        self._rating.append(rating)
        self._rating_place.append(place)

    def keep(self, extra: Mapping[str, Any]) -> None:
        """Columns that LoRe does not read, of the comparison or rating that was added last."""
        if not extra:
            return
        count = len(self._user) + len(self._rater)
        for name, value in extra.items():
            column = self._extra.setdefault(name, [])
            column.extend([None] * (count - 1 - len(column)))
            column.append(value)

    def build(self) -> Preferences:
        """The finished table.

        Raises:
            DataError: comparisons and ratings are mixed.
        """
        if self._user and self._rater:
            raise DataError(f"{self.origin.describe([], 0)}: comparisons and ratings in one table; load them apart")
        count = len(self._user) + len(self._rater)
        first, row = self._conversations()
        row_prompt, row_response = _integers(self._prompt_of)[first], _integers(self._response_of)[first]
        ratings = self._built_ratings(row_prompt, row)
        return Preferences(
            users=list(self._users),
            prompts=[_as_turns(said, "user") for said in self._prompts],
            responses=[_as_turns(said, "assistant") for said in self._responses],
            row_prompt=row_prompt,
            row_response=row_response,
            row_group=self._row_groups(row_prompt, row, across=ratings is not None and ratings.across),
            user=_integers(self._user),
            chosen=row[_integers(self._chosen)],
            rejected=row[_integers(self._rejected)],
            weight=np.array(self._weight, dtype=np.float64),
            label=np.array(self._label, dtype=np.float64),
            place=_integers(self._place),
            ratings=ratings,
            extra={name: column + [None] * (count - len(column)) for name, column in self._extra.items()},
            origin=self.origin,
        )

    def _built_ratings(self, row_prompt: Integers, row_of: Integers) -> Ratings | None:
        if not self._rater:
            return None
        user, row, place = _integers(self._rater), row_of[_integers(self._rated)], _integers(self._rating_place)
        prompts = list(self._prompts)
        prompt = np.where([bool(prompts[at]) for at in row_prompt], row_prompt, -1)[row]
        _, judged, counts = np.unique(np.stack([user, prompt]), axis=1, return_inverse=True, return_counts=True)
        compared = (counts[judged.ravel()] > 1) & (prompt >= 0)
        return Ratings(user, row, np.array(self._rating), place, across=float(compared.mean()) < _WITHIN)

    def _row_groups(self, row_prompt: Integers, row_of: Integers, across: bool) -> Integers:
        """By explicit groups where given (rows that share one are joined), else the prompt, or the item itself."""
        rows = len(row_prompt)
        if not self._groups:
            return np.arange(rows) if across else row_prompt.copy()
        return _joined(rows, [(int(row_of[mention]), group) for mention, group in self._groups])


def _interned(known: dict[Any, int], values: Sequence[Any]) -> Integers:
    """The number of each value; new ones are numbered on."""
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def _extend(column: "array[int]", values: Integers) -> None:
    column.frombytes(np.ascontiguousarray(values).tobytes())


def _integers(column: "array[int]") -> Integers:
    return np.array(column, dtype=np.int64)


def _joined(rows: int, groups: Sequence[tuple[int, str]]) -> Integers:
    """Connected components of rows that share a group, numbered from 0."""
    parent = list(range(rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    first: dict[str, int] = {}
    for row, group in groups:
        parent[root(row)] = root(first.setdefault(group, row))
    return np.unique([root(row) for row in range(rows)], return_inverse=True)[1].astype(np.int64)


FormatName = Literal["comparisons", "unpaired", "ranked", "ratings", "personalllm", "prism", "tldr"]
