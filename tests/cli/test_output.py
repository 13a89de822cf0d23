import sys
from pathlib import Path

import pytest

from lore.cli import output
from lore.cli.output import program, progress_bars


def test_without_a_terminal_long_work_writes_a_line_each_half_minute(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter(range(0, 1_000, 10))  # seconds of a clock
    monkeypatch.setattr(output.time, "monotonic", lambda: float(next(now)))
    with progress_bars() as progress:
        for done in range(12):
            progress("fit", done, 12)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "fit: 2 of 12 (0.1/s, about 100 s left)"


def test_quick_work_without_a_terminal_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress("fit", 1, 1)
    assert capsys.readouterr().err == ""


def test_a_command_that_is_not_on_the_path_is_named_by_its_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = tmp_path / "lore"
    monkeypatch.setattr(sys, "argv", [str(there)])
    monkeypatch.setenv("PATH", str(tmp_path / "elsewhere"))
    assert program() == str(there)
    there.write_text("#!/bin/sh\n")
    there.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == "lore"
