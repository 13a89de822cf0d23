import sys
from pathlib import Path

import pytest

from lore.cli.output import ProgressLines, program, progress_bars


def test_without_a_terminal_long_work_writes_a_line_each_half_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    lines = ProgressLines(clock=lambda: now)
    steps = iter([("fit", 0, 4), ("fit", 0, 4), ("fit", 2, 4), ("fit", 4, 4), None])

    def wait(seconds: float) -> bool:
        nonlocal now
        now += seconds
        step = next(steps)
        if step is not None:
            lines(*step)
        return step is None

    lines.write(wait)
    assert capsys.readouterr().err.splitlines() == [
        "fit: 0 of 4, for 0 s",
        "fit: 0 of 4, for 30 s",
        "fit: 2 of 4, for 60 s (0.0/s, about 60 s left)",
    ]


def test_quick_work_without_a_terminal_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        progress("fit", 0, 1)
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
