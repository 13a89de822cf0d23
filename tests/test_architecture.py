"""The plan of the house, held."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lore
from lore import cli

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "lore"
TESTS = ROOT / "tests"

# A room imports only from its left.
ROOMS = (
    "errors exports files progress < solvers < data < embedding < pairs < fitting < evaluation < runs < serve "
    "< cli compat"
)

FILES = sorted(path for path in SOURCE.rglob("*.py") if "migrations" not in path.parts)


def module(path: Path) -> str:
    """A file's name below `lore`, such as `data.formats.rows`; empty for `lore` itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path): path for path in FILES if module(path)}
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS.split(" < ")) for room in rooms.split()}


def imports(path: Path) -> set[str]:
    """The modules that a file imports, those inside functions and of types included."""
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lore":
            package = (node.module or "").removeprefix("lore").removeprefix(".")
            names = {f"{package}.{alias.name}".removeprefix(".") for alias in node.names}
            result |= {name if name in MODULES else package for name in names}
        if isinstance(node, ast.Import):
            result |= {alias.name.removeprefix("lore.") for alias in node.names if alias.name.startswith("lore.")}
    return {name for name in result if name} - {module(path)}


GRAPH = {name: imports(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("name", MODULES)
def test_a_room_imports_only_from_its_left(name: str) -> None:
    room = name.split(".")[0]
    others = {other.split(".")[0] for other in GRAPH[name]} - {room}
    assert not [other for other in others if FLOOR[other] > FLOOR[room]]
    assert room == "compat" or "compat" not in others


def test_inside_a_room_imports_go_one_way() -> None:
    assert list(graphlib.TopologicalSorter(GRAPH).static_order())


def test_the_house_has_at_most_18_rooms_and_10_floors() -> None:
    """A room is a module or package of `lore`, or a package inside one."""
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    rooms = packages | {name for name in MODULES if "." not in name}
    assert len(rooms) <= 18
    assert len(set(FLOOR.values())) <= 10
    assert {name for name in rooms if "." not in name} == set(FLOOR)


def test_the_plan_is_described() -> None:
    described = (ROOT / "docs" / "architecture.md").read_text()
    assert ROOMS.replace("cli compat", "cli, compat") in described
    for path in FILES:
        if path.stem != "__main__" and "migrations" not in path.parts:
            name = f"{path.parent.name}/" if path.stem == "__init__" else path.name
            opening = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0].rstrip(".")
            assert path.parent == SOURCE or re.search(rf" {name} +{re.escape(opening)}$", described, re.MULTILINE), path


def test_inference_does_not_import_training() -> None:
    script = (
        "import sys\nimport lore.runs.rewards\n"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] == 'lore'))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert len(loaded) <= 30, loaded
    banned = ("evaluation", "runs.training", "runs.paper", "fitting.fit", "fitting.simplex_fit", "fitting.gaussian")
    assert not [name for name in loaded if name.removeprefix("lore.").startswith(banned)]


def test_tests_mirror_the_rooms_and_are_short() -> None:
    rooms = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*") if path.is_dir()}
    for path in TESTS.rglob("test_*.py"):
        folder = str(path.parent.relative_to(TESTS))
        assert folder == "." or folder in rooms, path
        assert len(path.read_text().splitlines()) <= 400, path


def test_no_file_of_the_command_line_is_long_and_no_command_takes_more_than_twelve_parameters() -> None:
    for path in (SOURCE / "cli").rglob("*.py"):
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 300, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert len(node.args.args + node.args.kwonlyargs) <= 12, node.name


def test_public_names_are_sorted_complete_and_there() -> None:
    assert lore.__all__ == sorted(lore.__all__)
    assert set(lore.__all__) <= set(dir(lore))
    for name in lore.__all__:
        assert getattr(lore, name).__doc__, name
    with pytest.raises(AttributeError, match="nothing"):
        _ = lore.nothing


@pytest.mark.parametrize("room", ["data", "embedding", "pairs", "fitting", "evaluation", "runs"])
def test_the_names_that_a_room_exports_are_there_and_hide_no_module(room: str) -> None:
    package = __import__(f"lore.{room}", fromlist=["x"])
    names = [
        name for name in dir(package) if not name.startswith("_") and name not in ("TYPE_CHECKING", "lazy_exports")
    ]
    modules = {name.split(".")[1] for name in MODULES if name.startswith(f"{room}.")}
    exported = set(names) - modules
    assert all(callable(getattr(package, name)) or isinstance(getattr(package, name), tuple) for name in exported)


def test_every_public_name_and_command_is_documented() -> None:
    python, commands = ((ROOT / "docs" / name).read_text() for name in ("python.md", "commands.md"))
    assert not [name for name in lore.__all__ if f"`{name}`" not in python and f"lore.{name}" not in python]
    for command in cli.app.registered_commands:
        assert command.callback is not None
        assert f"`lore {command.callback.__name__}" in commands


def test_nothing_prints_but_the_command_line() -> None:
    for path in FILES:
        if module(path).split(".")[0] != "cli":
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path
