"""Conversations as tokens: the chat template applied once, texts that cannot forge a turn, and the length limit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lore.embedding.options import OnLong
from lore.errors import EncoderError
from lore.preferences import Turns, as_json

Conversation = tuple[Turns, Turns]

WHOLE, CUT, DROPPED = 0, 1, 2  # what the limit did to a conversation
_FIRST_PRIVATE = 0xE000  # of the characters that no text is meant to hold
_LAST_PRIVATE = 0xF8FF


@dataclass(frozen=True)
class Fitted:
    """Tokens of conversations within the limit.

    Attributes:
        tokens: of each conversation; none of one that was dropped.
        status: `WHOLE`, `CUT` or `DROPPED`, uint8 `[conversations]`.
    """

    tokens: list[list[int]]
    status: Tensor


@dataclass(frozen=True)
class Limit:
    """How many tokens a conversation may have, and what happens to a longer one."""

    tokens: int
    on_long: OnLong

    def fit(self, tokens: Sequence[list[int]], keep_first: int | None) -> Fitted:
        """Cut, drop or refuse what is too long.

        Args:
            tokens: of each conversation.
            keep_first: a token that stays at the beginning where it is there: the one that begins a text.

        Raises:
            EncoderError: a conversation is too long and the policy is "error".
        """
        status = torch.tensor([len(row) > self.tokens for row in tokens], dtype=torch.uint8)
        if self.on_long == "error" and bool(status.any()):
            longest = max(len(row) for row in tokens)
            raise EncoderError(
                f"{int(status.sum())} conversations are longer than `max_length` {self.tokens} tokens (the longest has "
                f"{longest}); raise --max-length, or choose what happens to them with --on-long drop, left or right"
            )
        if self.on_long == "drop":
            return Fitted([row if len(row) <= self.tokens else [] for row in tokens], DROPPED * status)
        return Fitted([self._cut(row, keep_first) if len(row) > self.tokens else row for row in tokens], CUT * status)

    def _cut(self, row: list[int], keep_first: int | None) -> list[int]:
        """The first tokens and the one that ends it; or the last ones, after the one that begins it."""
        if self.on_long == "right":
            return [*row[: self.tokens - 1], row[-1]]
        if row[0] == keep_first:
            return [row[0], *row[len(row) - self.tokens + 1 :]]
        return row[len(row) - self.tokens :]


class ChatTokens:
    """A tokenizer and its chat template.

    The template is rendered to tokens, once: no text is tokenized again, so that no second token for the beginning of a
    text appears. Where a text spells a control token, the spelling is taken out before the template is rendered, and
    put back letter by letter: it is read as text.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if tokenizer.chat_template is None:
            raise EncoderError(f"encoder {name!r} has no chat template; add one to its tokenizer")
        self.tokenizer, self._name = tokenizer, name
        control = _control_tokens(tokenizer)
        self._control = re.compile("|".join(map(re.escape, control))) if control else None

    def of(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """The tokens of each conversation."""
        turns = [as_json((*prompt, *response)) for prompt, response in conversations]
        forged = [
            self._control is not None and any(self._control.search(turn["content"]) for turn in own) for own in turns
        ]
        plain = [own for own, is_forged in zip(turns, forged, strict=True) if not is_forged]
        rendered = iter(self._rendered(plain, tokenize=True)) if plain else iter(())
        return [
            self._of_forged(own) if is_forged else list(next(rendered))
            for own, is_forged in zip(turns, forged, strict=True)
        ]

    def _rendered(self, turns: list[list[dict[str, str]]], *, tokenize: bool) -> list[Any]:
        import jinja2

        try:
            # Templates that write today's date would give another vector every day.
            found = self.tokenizer.apply_chat_template(
                turns, tokenize=tokenize, return_dict=False, date_string="26 Jul 2024"
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise EncoderError(
                f"the chat template of encoder {self._name!r} refuses a conversation ({reason}); use roles and an "
                "order of turns that it takes, or a template that takes these"
            ) from None
        return list(found)

    def _of_forged(self, turns: list[dict[str, str]]) -> list[int]:
        """Tokens of a conversation whose texts spell control tokens."""
        assert self._control is not None  # noqa: S101 - searched before
        mark = _unused_character([turn["content"] for turn in turns])
        spelled: list[str] = []

        def taken_out(found: re.Match[str]) -> str:
            spelled.append(found[0])
            return mark

        safe = [turn | {"content": self._control.sub(taken_out, turn["content"])} for turn in turns]
        pieces = self._rendered([safe], tokenize=False)[0].split(mark)
        if len(pieces) != len(spelled) + 1:
            raise EncoderError(
                f"the chat template of encoder {self._name!r} repeats or leaves out what is said, so that texts which "
                "spell control tokens cannot be told from its own; take these texts out, or mend the template"
            )
        tokens = self._plain(pieces[0])
        for text, piece in zip(spelled, pieces[1:], strict=True):
            tokens += [token for letter in text for token in self._plain(letter)] + self._plain(piece)
        return tokens

    def _plain(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else []


def _control_tokens(tokenizer: Any) -> list[str]:
    """Spellings that the tokenizer reads as one token with a meaning, longest first."""
    template = str(tokenizer.chat_template)
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special or str(token) in template]
    return sorted({text for text in (*added, *tokenizer.all_special_tokens) if text.strip()}, key=len, reverse=True)


def _unused_character(texts: Sequence[str]) -> str:
    used = set().union(*texts)
    for code in range(_FIRST_PRIVATE, _LAST_PRIVATE + 1):
        if chr(code) not in used:
            return chr(code)
    raise EncoderError("a text holds every private character of Unicode; take them out")
