"""Trainers that take a run's rewards: a real one, two steps long, on a tiny model."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

import tiny_models
from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.runs.config import TrainConfig
from lore.runs.rewards import PersonalRewards, trl_reward
from lore.runs.training import train


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    config = TrainConfig(encoder=HashEncoder(), family="simplex", ranks=(2,), unseen=0.25)
    return train(load_with_issues(small_rows(users=24)), tmp_path / "run", config).folder


def trained(folder: Path, reward: Any, output: Path) -> Any:
    """Two steps of group-relative policy optimization, each prompt asked by two people."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the trainer's own making
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import GRPOConfig, GRPOTrainer

        asked = [{"prompt": f"Say {at}", "user_id": f"u{at % 2}"} for at in range(8)]
        settings = GRPOConfig(
            output_dir=str(output),
            max_steps=2,
            per_device_train_batch_size=4,
            num_generations=2,
            max_completion_length=8,
            report_to=[],
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            seed=0,
        )
        trainer = GRPOTrainer(
            model=str(folder),
            reward_funcs=reward,
            args=settings,
            train_dataset=Dataset.from_list(asked),
            processing_class=AutoTokenizer.from_pretrained(folder),
        )
        trainer.train()
        return trainer


def test_trl_trains_on_the_rewards_of_the_person_in_each_row(run_folder: Path, tmp_path: Path) -> None:
    personal, seen = trl_reward(run_folder, HashEncoder()), []

    def watched(**columns: Any) -> list[float]:
        found = personal(**columns)
        seen.append((columns["user_id"], columns["prompts"], columns["completions"], found))
        return found

    trainer = trained(tiny_models.save(tmp_path / "policy", "causal"), watched, tmp_path / "out")
    assert trainer.state.global_step == 2
    assert len(seen) == 2
    rewards = PersonalRewards.load(run_folder, HashEncoder())
    for users, prompts, completions, found in seen:
        assert set(users) <= {"u0", "u1"}
        expected = [
            rewards.rerank(user, prompt, [completion]).rewards[0]
            for user, prompt, completion in zip(users, prompts, completions, strict=True)
        ]
        assert found == pytest.approx(expected, abs=1e-5)
    logged = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    means = [sum(found) / len(found) for *_, found in seen]
    assert logged == pytest.approx(means, abs=1e-5), json.dumps(trainer.state.log_history)
