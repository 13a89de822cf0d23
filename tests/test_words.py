"""Names and docstrings are in the field's words (CONTRIBUTING.md)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lore"
FILES = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.parts)

DIALECT = frozenset("found place kept at known own said judged asked given told".split())  # noqa: SIM905
DIALECT |= {"somebody", "nobody", "everybody", "stranger", "foretold", "people", "person"}
OPENINGS = frozenset({"What", "Whether", "Of", "How", "Who"})
MAX_WORDS = 30  # in a sentence
ELSEWHERE = {("minimum", "at"), ("maximum", "at")}  # numpy's names

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def identifiers(tree: ast.Module) -> Iterator[str]:
    """Every name, argument, attribute, keyword and definition."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg | ast.keyword) and node.arg is not None:
            yield node.arg
        elif isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Attribute):
            parent = node.value.attr if isinstance(node.value, ast.Attribute) else ""
            if (parent, node.attr) not in ELSEWHERE:
                yield node.attr


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """The name and docstring of the module, and of all classes and functions."""
    for node in ast.walk(tree):
        if isinstance(node, Documented) and (text := ast.get_docstring(node)):
            yield getattr(node, "name", "module"), text


def sentences(text: str) -> Iterator[str]:
    """The sentences of a docstring; a blank line, a list entry and an indented block end one."""
    for block in re.split(r"\n\s*\n|\n(?=\s+\S)|\n(?=[-*] )", text):
        yield from re.split(r"(?<=[.;:?!])\s+", block)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_identifiers_are_words_of_the_field(path: Path) -> None:
    names = {name.strip("_").lower() for name in identifiers(ast.parse(path.read_text()))}
    assert not DIALECT & names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_docstrings_open_with_a_verb_or_a_noun_and_have_short_sentences(path: Path) -> None:
    for name, text in docstrings(ast.parse(path.read_text())):
        first = re.split(r"\W+", text, maxsplit=1)[0]
        assert first not in OPENINGS, name
        assert first.lower() not in DIALECT, name
        assert not [words for words in sentences(text) if len(words.split()) > MAX_WORDS], name


def test_one_noun_is_used_for_users() -> None:
    other = re.compile(r"\b(person|people|somebody|everybody|nobody|strangers?)\b", re.IGNORECASE)
    for path in [*FILES, *SOURCE.rglob("*.html")]:
        text = path.read_text().replace('"people": "users"', "")  # a field of report.json in its format 0
        assert not other.findall(text), path
