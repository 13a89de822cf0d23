"""Conversations as tokens: the chat template applied once, texts that cannot forge a turn, and the length limit."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lore.data.messages import TOOL_CALLS, Messages, for_template
from lore.embedding.batches import common
from lore.embedding.options import EncoderOptions, Truncation
from lore.errors import EncoderError, first_line

Conversation = tuple[Messages, Messages]

_PROBE = "lore_probe"  # name of a function that no template writes by itself

WHOLE, CUT, DROPPED = 0, 1, 2  # what the limit did to a conversation


@dataclass(frozen=True)
class TokenizedBatch:
    """Tokens of conversations within the limit.

    Attributes:
        tokens: of each conversation; none of one that was dropped.
        status: `WHOLE`, `CUT` or `DROPPED`, uint8 `[conversations]`.
    """

    tokens: list[list[int]]
    status: Tensor


@dataclass(frozen=True)
class LengthLimit:
    """The most tokens a conversation may have, and what happens to a longer one."""

    tokens: int
    truncation: Truncation

    @classmethod
    def of(
        cls, name: str, options: EncoderOptions, *, maximum: int, usual: int, truncation: Truncation
    ) -> "LengthLimit":
        """Return the limit in the options, or the usual one of an encoder that reads `maximum` tokens.

        Raises:
            EncoderError: the options allow more than the encoder reads.
        """
        if options.max_length is not None and options.max_length > maximum:
            raise EncoderError(
                f"encoder {name!r} reads {maximum} tokens at most, got `max_length` {options.max_length}; lower it"
            )
        return cls(options.max_length or min(usual, maximum), options.truncation or truncation)

    def fit(self, tokens: Sequence[list[int]], keep_first: int | None) -> TokenizedBatch:
        """Cut, drop or refuse what is too long.

        Args:
            tokens: of each conversation.
            keep_first: a token that stays at the beginning where it is there: the one that begins a text.

        Raises:
            EncoderError: a conversation is too long and the policy is "error".
        """
        status = torch.tensor([len(row) > self.tokens for row in tokens], dtype=torch.uint8)
        if self.truncation == "error" and bool(status.any()):
            longest = max(len(row) for row in tokens)
            raise EncoderError(
                f"{int(status.sum())} conversations are longer than `max_length` {self.tokens} tokens (the longest has "
                f"{longest}); raise `max_length`, or choose what happens to them with `truncation`: 'drop', 'left' or "
                "'right'"
            )
        if self.truncation == "drop":
            return TokenizedBatch([row if len(row) <= self.tokens else [] for row in tokens], DROPPED * status)
        return TokenizedBatch(
            [self._cut(row, keep_first) if len(row) > self.tokens else row for row in tokens], CUT * status
        )

    def _cut(self, row: list[int], keep_first: int | None) -> list[int]:
        """Return the first tokens and the one that ends it; or the last ones, after the one that begins it."""
        if self.truncation == "right":
            return [*row[: self.tokens - 1], row[-1]]
        if row[0] == keep_first:
            return [row[0], *row[len(row) - self.tokens + 1 :]]
        return row[len(row) - self.tokens :]


class ChatTokens:
    """A tokenizer and its chat template.

    The template is rendered to tokens, once: no text is tokenized again, so that no second token for the beginning of a
    text appears; and a text that spells a control token is read as text.
    """

    def __init__(self, tokenizer: Any, name: str) -> None:
        if tokenizer.chat_template is None:
            raise EncoderError(f"encoder {name!r} has no chat template; add one to its tokenizer")
        self.tokenizer, self._name = tokenizer, name

    def of(self, conversations: Sequence[Conversation]) -> list[list[int]]:
        """Return the tokens of each conversation."""
        if not conversations:
            return []
        return self._rendered([self._turns((*prompt, *response)) for prompt, response in conversations])

    def _rendered(self, turns: list[list[dict[str, Any]]], **choices: Any) -> list[list[int]]:
        import jinja2

        try:
            # Templates that write today's date would give another vector every day.
            tokens: list[list[int]] = self.tokenizer.apply_chat_template(
                turns,
                return_dict=False,
                sanitize_control_tokens=True,
                date_string="26 Jul 2024",
                **choices,
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            reason = first_line(error)
            raise EncoderError(
                f"the chat template of encoder {self._name!r} refuses a conversation ({reason}); use roles and an "
                "order of turns that it takes, or a template that takes these"
            ) from None
        return tokens

    def begins(self, conversations: Sequence[Conversation], tokens: Sequence[list[int]]) -> list[int]:
        """Return where the response begins in the tokens of each conversation: after what its prompt alone gives.

        A conversation without a prompt begins with its response.
        """
        prompts: dict[Messages, list[int]] = {prompt: [] for prompt, _ in conversations if prompt}
        if prompts:
            rendered = self._rendered([self._turns(prompt) for prompt in prompts], add_generation_prompt=True)
            prompts = dict(zip(prompts, rendered, strict=True))
        return [
            common(prompts[prompt], row) if prompt else 0
            for (prompt, _), row in zip(conversations, tokens, strict=True)
        ]

    def _turns(self, messages: Messages) -> list[dict[str, Any]]:
        called = any(role == TOOL_CALLS for role, _ in messages)
        return for_template(messages, with_calls=called and self._takes_calls)

    @cached_property
    def _takes_calls(self) -> bool:
        """Return True if the template writes calls of tools; many take them and leave them out."""
        import jinja2

        call = {"type": "function", "function": {"name": _PROBE, "arguments": {"of": "x"}}}
        turns = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
        ]
        try:
            text: str = self.tokenizer.apply_chat_template(turns, tokenize=False)
        except (jinja2.TemplateError, TypeError, ValueError):
            return False
        return _PROBE in text
