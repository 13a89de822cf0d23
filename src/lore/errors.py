"""The exceptions and warnings of LoRe.

    LoreError                     the caller's input, arguments or surroundings are wrong: `lore` exits with 2
    ├── DataError                 a file of comparisons cannot be read, or what is in it cannot be used
    ├── ConfigError               an argument breaks a rule, by itself or together with another
    ├── ShapeError                tensors that do not fit together
    ├── EncoderError              an encoder cannot be loaded, or fails its probe
    ├── StoreError                a folder of embeddings is damaged, or made by another encoder
    ├── RunError                  a RUN folder is missing, unfinished, damaged or in the way
    ├── UnknownUser               nothing is known about this user
    └── MissingExtra              an optional part of the installation is needed here
    ConvergenceWarning            a fit stopped before it reached its tolerance

Every message names the place (a file and row, or an argument), the rule, the value and the remedy, on one line.
"""


class LoreError(Exception):
    """Base of all errors that the caller can mend."""


class DataError(LoreError):
    """Data that cannot be read or used."""


class ConfigError(LoreError):
    """An argument that breaks a rule."""


class ShapeError(LoreError):
    """Tensors whose shapes, or whose indices, do not fit together."""


class EncoderError(LoreError):
    """An encoder that cannot be loaded or trusted."""


class StoreError(LoreError):
    """A folder of embeddings that cannot be used."""


class RunError(LoreError):
    """A RUN folder that cannot be used."""


class UnknownUser(LoreError):  # noqa: N818 - the name says what is wrong
    """A user of whom nothing is known."""


class MissingExtra(LoreError):  # noqa: N818 - the name says what is wrong
    """An optional dependency that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"this needs the package {package!r}; install it with: pip install 'lore-reward[{extra}]'")


class ConvergenceWarning(UserWarning):
    """A solver stopped before it reached its tolerance; the message says what to change."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or the name of its class if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
