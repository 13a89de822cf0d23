"""Repeating the end of a response does not raise its reward without bound, whatever the encoder."""

from pathlib import Path

import pytest
import torch

import tiny_models
from builders import small_rows
from lore.data.formats import load_with_issues
from lore.embedding import EncoderOptions
from lore.fitting.basis import RewardBasis
from lore.runs.artifacts import Run
from lore.runs.config import TrainConfig
from lore.runs.rewards import PersonalRewards
from lore.runs.training import train

TIMES = (1_000, 10_000, 100_000)  # beyond what any of these encoders reads
CASES = [
    (["minilm"], EncoderOptions()),
    (["sentence"], EncoderOptions()),
    (["causal"], EncoderOptions(pooling="response", layer=1, truncation="left", max_length=64)),
    (["causal"], EncoderOptions(pooling="mean", truncation="right", max_length=64)),
    (["reward"], EncoderOptions(truncation="left", max_length=64)),
    (["sentence", "causal"], EncoderOptions(pooling="response", truncation="left", max_length=64)),
    (["minilm", "causal", "sentence"], EncoderOptions(truncation="left", max_length=64)),
]


@pytest.mark.parametrize(
    ("kinds", "options"), CASES, ids=lambda value: "+".join(value) if isinstance(value, list) else ""
)
def test_a_response_gains_nothing_by_repeating_its_end(
    kinds: list[str], options: EncoderOptions, tmp_path: Path
) -> None:
    names = [kind if kind == "minilm" else str(tiny_models.save(tmp_path / kind, kind)) for kind in kinds]
    rows = [{**row, "chosen": f"{row['chosen']} {row['chosen']}"} for row in small_rows(users=24)]  # the longer one
    config = TrainConfig("+".join(names), "gaussian", ranks=(1, 2), unseen=0.25, encoding=options)
    run = train(load_with_issues(rows), tmp_path / "run", config).folder
    ranges = Run.load(run).basis.ranges
    assert len(ranges) == sum(kind in ("minilm", "sentence") for kind in kinds)
    rewards = PersonalRewards.load(run)
    for user in ("u0", None):
        scores = rewards.rerank(user, "Say 1", ["it is " + "word " * times for times in TIMES]).rewards
        assert max(scores) - min(scores) < 1e-3 * max(abs(score) for score in scores), scores


def test_beyond_its_range_a_column_counts_no_further_and_within_it_as_before() -> None:
    rng = torch.Generator().manual_seed(0)
    directions, center = torch.randn(4, 2, generator=rng), torch.randn(4, generator=rng)
    free = RewardBasis(directions, center, torch.zeros(2), "gaussian", 2)
    bound = RewardBasis(directions, center, torch.zeros(2), "gaussian", 2, ranges={3: (-1.0, 2.0)})
    embeddings, weights = 3 * torch.randn(50, 4, generator=rng), torch.randn(5, 2, generator=rng)
    clamped = torch.cat([embeddings[:, :3], embeddings[:, 3:].clamp(-1.0, 2.0)], dim=1)
    torch.testing.assert_close(bound.rewards(embeddings, weights), free.rewards(clamped, weights))
    within = clamped[:, 3] == embeddings[:, 3]
    assert torch.equal(bound.rewards(embeddings[within], weights), free.rewards(embeddings[within], weights))
    assert RewardBasis.deserialized(*bound.serialized()).ranges == bound.ranges
