import pytest

from builders import HashEncoder
from cli_builders import Command
from lore import cli


@pytest.fixture
def lore(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command in this process: exit code, standard output, standard error."""
    for module in ("lore.embedding.store", "lore.runs.rewards"):
        monkeypatch.setattr(f"{module}.load_encoder", lambda *_: HashEncoder())

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return run
