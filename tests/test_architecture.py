"""The plan of the house, held."""

import ast
import re
from pathlib import Path

import pytest

import lore
from lore import cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lore"

# A module imports only from those above it (docs/architecture.md).
ORDER = """errors files progress simplex objective optimize descent charts gaussian recipe preferences sources check
embedding pairs basis simulate problem config checkpoint cost tastes fitter fit personalize evaluate calibration
significance diagnostics noise experiments report run train demo reproduce ask questionnaire rewards score users serve
cli compat""".split()  # noqa: SIM905

MODULES = sorted(path for path in SOURCE.rglob("*.py") if path.name != "__init__.py" or path.parent != SOURCE)


def room(path: Path) -> str:
    """The module of the plan that a file belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a file imports, those inside functions and of types included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lore"):
            parts = (node.module or "").split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lore.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_from_those_above_it(path: Path) -> None:
    place = ORDER.index(room(path))
    assert all(ORDER.index(other) <= place for other in imported(path))
    assert room(path) == "compat" or "compat" not in imported(path)


def test_every_module_is_in_the_plan() -> None:
    assert {room(path) for path in MODULES} == set(ORDER)
    described = (ROOT / "docs" / "architecture.md").read_text()
    assert all(f"{name}.py" in described or f"{name}/" in described for name in ORDER)


def test_public_names_are_sorted_complete_and_there() -> None:
    assert lore.__all__ == sorted(lore._HOMES)
    for name in lore.__all__:
        assert getattr(lore, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = lore.nothing


def test_every_public_name_and_command_is_documented() -> None:
    python, commands = ((ROOT / "docs" / name).read_text() for name in ("python.md", "commands.md"))
    assert not [name for name in lore.__all__ if f"`{name}`" not in python and f"lore.{name}" not in python]
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert f"`lore {command.callback.__name__}" in commands


def test_nothing_prints_but_the_command_line() -> None:
    for path in MODULES:
        if room(path) != "cli":
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path


def test_every_module_has_tests() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for path in MODULES:
        if room(path) == "progress":
            continue  # a type, and a function that does nothing
        assert re.search(rf"lore\.{room(path)}\b|from lore import .*\b{room(path)}\b", tests), path
