"""Names of packages that are imported when they are first used, and short representations of large objects."""

import sys
from collections.abc import Callable, Mapping, Sized
from dataclasses import fields
from importlib import import_module
from typing import Any

_SHORT = 60  # characters of a value that is shown as it is


def lazy_exports(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return `__getattr__` and `__dir__` for a package (PEP 562), so that importing it imports nothing else.

    Args:
        package: `__name__` of the package.
        homes: the module, relative to the package, that defines each public name. No name may be that of a module of
            the package: importing the module would replace it.
    """

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(f"{package}.{homes[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return getattribute, names


def compact_repr(instance: Any) -> str:
    """Return the class of a dataclass with its fields: arrays by shape, collections by size, others as they are."""
    shown = ", ".join(f"{field.name}={_compact(getattr(instance, field.name))}" for field in fields(instance))
    return f"{type(instance).__name__}({shown})"


def _compact(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, str):
        return repr(value) if len(value) <= _SHORT else f"str[{len(value)}]"
    if isinstance(value, Mapping) or (isinstance(value, Sized) and not hasattr(value, "__dataclass_fields__")):
        return f"{type(value).__name__}[{len(value)}]"
    text = repr(value)
    return text if len(text) <= 10 * _SHORT else f"<{type(value).__name__}>"
