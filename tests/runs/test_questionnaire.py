from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from builders import HashEncoder, small_rows
from lore import cli
from lore.data.formats import load, load_with_issues
from lore.runs.artifacts import Run
from lore.runs.config import TrainConfig
from lore.runs.questionnaire import Questionnaire
from lore.runs.rewards import PersonalRewards
from lore.runs.training import train


@pytest.mark.parametrize("family", ["simplex", "gaussian"])
def test_a_questionnaire_learns_a_person_from_few_answers(tmp_path: Path, family: Any) -> None:
    config = TrainConfig(encoder=HashEncoder(), family=family, ranks=(1, 2), unseen=0.25)
    run = train(load_with_issues(small_rows(users=24)), tmp_path / "run", config).folder
    questions = Questionnaire(run, "new")
    before = questions.weights()
    seen = set()
    for _ in range(6):
        choice = questions.next()
        assert choice.prompts[0] == choice.prompts[1]
        seen.add((choice.question.first, choice.question.second))
        questions.answer(choice, first=len(choice.responses[0]) > len(choice.responses[1]))
    assert len(seen) == 6
    rows = questions.comparisons()
    assert all(len(row["chosen"][0]["content"]) > len(row["rejected"][0]["content"]) for row in rows)
    rewards = PersonalRewards.load(run, HashEncoder())
    texts = ["apple bread cloud dream eagle 1", "bread 1"]
    vectors = rewards.embed("Say 1", texts)
    mine, population = (rewards.run.basis.rewards(vectors, weights) for weights in (questions.weights(), before))
    assert float(mine[0] - mine[1]) > float(population[0] - population[1])  # likes long ones
    command = ["ask", str(run), "--user", "new", "--worth", "0", "--out", str(tmp_path / "a.jsonl")]
    typed = CliRunner().invoke(cli.app, command, input="1\n2\nq\n")
    assert typed.exit_code == 0, typed.output
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    assert "likes more than most users do" in typed.output
    assert "2 answers kept" in typed.output
    added = load(run / "added.parquet")
    assert (added.users, len(added)) == (["new"], 2)
    assert "new" in Run.load(run).users
    forgotten = CliRunner().invoke(cli.app, [*command, "--forget"], input="1\nq\n")
    assert "1 answer not kept" in forgotten.output
    assert len(load(run / "added.parquet")) == 2
    ended = CliRunner().invoke(cli.app, command, input="1\n")  # Ctrl-D, or Ctrl-C, after one answer
    assert ended.exit_code == 130
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 1
    assert len(load(run / "added.parquet")) == 3  # what was answered is not lost
