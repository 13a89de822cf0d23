"""`PreferencesBuilder`: collects rows and comparisons into `Preferences`."""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lore.data.issues import RowRef, SourceLocations
from lore.data.messages import Content, as_messages, compact_messages
from lore.data.preferences import Integers, Preferences, Ratings
from lore.errors import DataError

_WITHIN = 0.5  # share of ratings with another one to the same prompt, from which pairs are made within prompts


class PreferencesBuilder:
    """Collects rows and comparisons, keeping every prompt, response and conversation once."""

    def __init__(self, origin: SourceLocations | None = None) -> None:
        self.origin = SourceLocations() if origin is None else origin
        self._users: dict[str, int] = {}
        self._prompts: dict[Content, int] = {}
        self._last_prompt: Content | None = None
        self._last_prompt_number = 0
        self._responses: dict[Content, int] = {}
        self._prompt_of, self._response_of = array("q"), array("q")  # of each mention of a conversation
        self._groups: list[tuple[int, str]] = []
        self._user, self._chosen, self._rejected, self._row_ref = (array("q") for _ in range(4))
        self._weight, self._label = array("d"), array("d")
        self._rater, self._rated, self._rating_row_ref = (array("q") for _ in range(3))
        self._rating = array("d")
        self._extra: dict[str, list[Any]] = {}

    def row(self, prompt: Content, response: Content, group: str | None = None) -> int:
        """Add a mention of a conversation, to be compared or rated; `build` makes one row of equal ones.

        A `group` given here replaces the prompt as what may not be split.
        """
        if prompt is not self._last_prompt:  # both sides of a comparison ask the same
            content = prompt if isinstance(prompt, str) else compact_messages(prompt, "user")
            self._last_prompt_number = self._prompts.setdefault(content, len(self._prompts))
            self._last_prompt = prompt
        if not isinstance(response, str):
            response = compact_messages(response, "assistant")
        mention = len(self._prompt_of)
        self._prompt_of.append(self._last_prompt_number)
        self._response_of.append(self._responses.setdefault(response, len(self._responses)))
        if group is not None:
            self._groups.append((mention, group))
        return mention

    def rows(self) -> Integers:
        """Return the row in the finished table of each mention, `[mentions]`; rows are in order of appearance."""
        return self._conversations()[1]

    def _conversations(self) -> tuple[Integers, Integers]:
        """Return the first mention of each row, `[rows]`, and the row of each mention, `[mentions]`."""
        key = (_integers(self._prompt_of) << 32) | _integers(self._response_of)
        _, first, row = np.unique(key, return_index=True, return_inverse=True)
        order = np.argsort(first)
        position = np.empty_like(order)
        position[order] = np.arange(len(order))
        return first[order], position[row]

    def compare(
        self, user: str, chosen: int, rejected: int, row_ref: RowRef, *, weight: float = 1.0, label: float = 1.0
    ) -> None:
        """Add "`user` chose `chosen` over `rejected`", both mentioned before."""
        self._user.append(self._users.setdefault(user, len(self._users)))
        self._chosen.append(chosen)
        self._rejected.append(rejected)
        self._weight.append(weight)
        self._label.append(label)
        self._row_ref.append(row_ref)

    def compare_all(self, users: list[str], prompts: list[str], sides: list[str]) -> None:
        """Add a comparison for each of the next rows of the origin, which hold nothing but texts.

        Args:
            users: who compared, `[rows]`.
            prompts: what both responses answer, `[rows]`; an empty text is no prompt.
            sides: the chosen and the rejected response of each row in turn, `[2 * rows]`.
        """
        mention = np.arange(len(self._prompt_of), len(self._prompt_of) + len(sides))
        first_ref = self.origin.add_rows(len(users))
        _extend(self._user, _interned(self._users, users))
        _extend(self._prompt_of, np.repeat(_interned(self._prompts, [text or () for text in prompts]), 2))
        _extend(self._response_of, _interned(self._responses, sides))
        _extend(self._chosen, mention[::2])
        _extend(self._rejected, mention[1::2])
        _extend(self._row_ref, np.arange(first_ref, first_ref + len(users)))
        for column in (self._weight, self._label):
            column.extend([1.0] * len(users))

    def rate(self, user: str, mention: int, rating: float, row_ref: RowRef) -> None:
        """Add "`user` gave the conversation of this mention this rating"."""
        self._rater.append(self._users.setdefault(user, len(self._users)))
        self._rated.append(mention)
        self._rating.append(rating)
        self._rating_row_ref.append(row_ref)

    def keep(self, extra: Mapping[str, Any]) -> None:
        """Add columns that LoRe does not read to the comparison or rating that was added last."""
        if not extra:
            return
        count = len(self._user) + len(self._rater)
        for name, value in extra.items():
            column = self._extra.setdefault(name, [])
            column.extend([None] * (count - 1 - len(column)))
            column.append(value)

    def build(self) -> Preferences:
        """Return the finished table.

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
            prompts=[as_messages(content, "user") for content in self._prompts],
            responses=[as_messages(content, "assistant") for content in self._responses],
            row_prompt=row_prompt,
            row_response=row_response,
            row_group=self._row_groups(row_prompt, row, across_prompts=ratings is not None and ratings.across_prompts),
            user=_integers(self._user),
            chosen=row[_integers(self._chosen)],
            rejected=row[_integers(self._rejected)],
            weight=np.array(self._weight, dtype=np.float64),
            label=np.array(self._label, dtype=np.float64),
            row_ref=_integers(self._row_ref),
            ratings=ratings,
            extra={name: column + [None] * (count - len(column)) for name, column in self._extra.items()},
            origin=self.origin,
        )

    def _built_ratings(self, row_prompt: Integers, row_of: Integers) -> Ratings | None:
        if not self._rater:
            return None
        user, row, row_ref = _integers(self._rater), row_of[_integers(self._rated)], _integers(self._rating_row_ref)
        prompts = list(self._prompts)
        prompt = np.where([bool(prompts[number]) for number in row_prompt], row_prompt, -1)[row]
        cell = user * (len(prompts) + 1) + prompt + 1  # one number for each user and prompt
        _, position, counts = np.unique(cell, return_inverse=True, return_counts=True)
        compared = (counts[position] > 1) & (prompt >= 0)
        return Ratings(user, row, np.array(self._rating), row_ref, across_prompts=float(compared.mean()) < _WITHIN)

    def _row_groups(self, row_prompt: Integers, row_of: Integers, across_prompts: bool) -> Integers:
        """By explicit groups where given (rows that share one are joined), else the conversation, or the item."""
        rows = len(row_prompt)
        if not self._groups:
            return np.arange(rows) if across_prompts else self._conversation_of_prompt()[row_prompt]
        return _joined(rows, [(int(row_of[mention]), group) for mention, group in self._groups])

    def _conversation_of_prompt(self) -> Integers:
        """Return the conversation that each prompt belongs to, `[prompts]`, numbered by its first prompt.

        A later prompt of a conversation quotes the reply to an earlier one, most often the chosen one: in training it
        would tell what was chosen in test.
        """
        conversations = np.arange(len(self._prompts))
        histories = [(content, number) for content, number in self._prompts.items() if not isinstance(content, str)]
        rows = set(zip(self._prompt_of, self._response_of, strict=True)) if any(histories) else set()
        edges = []
        for content, number in histories:
            for turn, (role, reply) in enumerate(content):
                earlier = self._prompts.get(compact_messages(content[:turn], "user")) if role == "assistant" else None
                if earlier is not None and (earlier, self._responses.get(reply)) in rows:
                    edges.append((earlier, number))
        if not edges:
            return conversations
        size = len(conversations)
        graph = coo_array((np.ones(len(edges)), tuple(np.array(edges).T)), shape=(size, size))
        component = connected_components(graph, directed=False)[1]
        return np.unique(component, return_index=True)[1][component].astype(np.int64)


def _interned(numbers: dict[Any, int], values: Sequence[Any]) -> Integers:
    """Return the number of each value; new ones are numbered on."""
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)


def _extend(column: "array[int]", values: Integers) -> None:
    column.frombytes(np.ascontiguousarray(values).tobytes())


def _integers(column: "array[int]") -> Integers:
    return np.array(column, dtype=np.int64)


def _joined(rows: int, groups: Sequence[tuple[int, str]]) -> Integers:
    """Return the connected component of each row, `[rows]`, of rows that share a group, numbered by their first row."""
    number = {group: rows + index for index, group in enumerate(dict.fromkeys(group for _, group in groups))}
    edges = np.array([(row, number[group]) for row, group in groups]).T
    size = rows + len(number)
    graph = coo_array((np.ones(edges.shape[1]), (edges[0], edges[1])), shape=(size, size))
    component = connected_components(graph, directed=False)[1][:rows]
    _, first, position = np.unique(component, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[position].astype(np.int64)


def without_user(preferences: Preferences, user: str) -> Preferences:
    """Return the table without a user, and without what only this user compared or rated."""
    builder = PreferencesBuilder(preferences.origin)
    number = preferences.users.index(user)
    extra_columns = {name: iter(values) for name, values in preferences.extra.items()}
    groups = preferences.row_group.tolist()

    def mention(row: int) -> int:
        return builder.row(*preferences.conversation(row), group=f"g{groups[row]}")

    ratings = preferences.ratings
    if ratings is not None:
        columns = (ratings.user, ratings.row, ratings.rating, ratings.row_ref)
        for rater, row, rating, row_ref in zip(*(column.tolist() for column in columns), strict=True):
            extra = {name: next(values) for name, values in extra_columns.items()}
            if rater != number:
                builder.rate(preferences.users[rater], mention(row), rating, row_ref)
                builder.keep(extra)
        return builder.build()
    compared = (
        preferences.user,
        preferences.chosen,
        preferences.rejected,
        preferences.weight,
        preferences.label,
        preferences.row_ref,
    )
    for who, chosen, rejected, weight, label, row_ref in zip(*(column.tolist() for column in compared), strict=True):
        extra = {name: next(values) for name, values in extra_columns.items()}
        if who != number:
            sides = mention(chosen), mention(rejected)
            builder.compare(preferences.users[who], *sides, row_ref, weight=weight, label=label)
            builder.keep(extra)
    return builder.build()
