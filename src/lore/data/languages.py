"""Scripts and languages of texts, told apart by their letters and commonest words: enough to find a mixture."""

import re
import unicodedata
from collections import Counter
from functools import cache

_LETTERS = 200  # of a text that are looked at
_COMMON_WORDS = {
    "English": "the and of to is that it you for with this are",
    "German": "der die und das nicht ist ein sie mit ich für auf",
    "French": "le les et des est une dans pour que vous pas avec",
    "Spanish": "el los y que una por con para es las del como",
    "Portuguese": "o os e que uma não para com é do da como",
    "Italian": "il gli e che una non per con è di sono come",
    "Dutch": "de het een en van niet dat is voor met zijn op",
}
_LANGUAGES = {language: frozenset(words.split()) for language, words in _COMMON_WORDS.items()}
_HITS = 3  # different common words that a text must hold before its language is told
_WORDS = re.compile(r"[^\W\d_]+")


def language_of(text: str) -> str | None:
    """Return the script of a text, for texts in Latin letters the language; None where it cannot be told."""
    script = "LATIN" if text.isascii() else _script(text)
    if script != "LATIN":
        return script
    words = set(_WORDS.findall(text[: 10 * _LETTERS].casefold()))
    hits = sorted((len(words & common), language) for language, common in _LANGUAGES.items())
    (second, _), (most, language) = hits[-2:]
    return language if most >= _HITS and most >= 2 * second else None


def _script(text: str) -> str | None:
    scripts = Counter(_script_of(letter) for letter in text[: 10 * _LETTERS] if letter.isalpha())
    return scripts.most_common(1)[0][0] if scripts else None


@cache
def _script_of(letter: str) -> str:
    """Return the script of a letter, the first word of its name; Chinese and Japanese letters count as one."""
    script = unicodedata.name(letter, "UNKNOWN").split()[0]
    return "CJK" if script in ("CJK", "HIRAGANA", "KATAKANA") else script
