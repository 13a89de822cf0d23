from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from builders import HashEncoder, small_rows
from lore.data.formats import load_with_issues
from lore.errors import DataError, RunError, StoreError
from lore.fitting.basis import RewardBasis
from lore.runs.artifacts import Run
from lore.runs.config import TrainConfig
from lore.runs.rewards import PersonalRewards, reranked, trl_reward, verl_score
from lore.runs.training import train

LONG, SHORT = "apple bread cloud dream eagle flame", "kettle"


def test_each_person_gets_their_own_order_and_strangers_the_populations(rewards: PersonalRewards) -> None:
    texts = ["apple bread cloud dream eagle 1", "bread 1"]
    long_first, short_first = (rewards.rerank(user, "Say 1", texts) for user in ("u0", "u1"))
    assert (long_first.order, short_first.order) == ([0, 1], [1, 0])
    assert long_first.personalized
    stranger = rewards.rerank("nobody", "Say 1", texts)
    assert not stranger.personalized
    assert stranger.to_json()["results"][0].keys() == {"index", "reward"}
    assert rewards.best_of("u1", [{"role": "user", "content": "Say 1"}], texts) == texts[1]
    assert rewards.rerank(None, None, texts).rewards == stranger.rewards


def test_a_whole_number_is_an_id_as_in_training(rewards: PersonalRewards) -> None:
    rewards.run = replace(rewards.run, users={user.removeprefix("u"): row for user, row in rewards.run.users.items()})
    texts = ["apple bread cloud dream eagle 1", "bread 1"]
    found = rewards.rerank(1, "Say 1", texts)
    assert found == rewards.rerank("1", "Say 1", texts)
    assert found.personalized
    assert rewards.each([1, np.int64(1), "1"], ["p"] * 3, ["apple"] * 3) == rewards.each(
        ["1"] * 3, ["p"] * 3, ["apple"] * 3
    )
    for user in (True, 1.0, b"1"):
        with pytest.raises(DataError, match="`user` must be a text or a whole number"):
            rewards.weights(user)


def test_candidates_are_a_list_of_texts_that_can_be_encoded(rewards: PersonalRewards) -> None:
    with pytest.raises(DataError, match="put it in a list"):
        rewards.rerank("u0", "p", "abc")
    for broken in ("\ud800", [{"role": "assistant", "content": "\udfff"}]):
        with pytest.raises(DataError, match="surrogate"):
            rewards.rerank("u0", "p", ["a", broken])
    assert rewards.each([], [], []) == []


def test_the_gaussian_family_says_how_sure_it_is(tmp_path: Path) -> None:
    config = TrainConfig(encoder=HashEncoder(), family="gaussian", ranks=(1, 2), unseen=0.25)
    run = train(load_with_issues(small_rows(users=24)), tmp_path / "run", config).folder
    rewards = PersonalRewards.load(run, HashEncoder())
    texts = ["apple bread cloud dream eagle 1", "bread 1", "kettle"]
    known, stranger = (rewards.rerank(user, "Say 1", texts) for user in ("u1", "nobody"))
    for found in (known, stranger):
        assert found.best is not None
        assert found.intervals is not None
        assert sum(found.best) == pytest.approx(1)
        assert all(low <= reward <= high for reward, (low, high) in zip(found.rewards, found.intervals, strict=True))
        assert found.to_json()["results"][0].keys() == {"index", "reward", "low", "high", "probability_best"}
    widths = [sum(high - low for low, high in found.intervals or []) for found in (known, stranger)]
    assert widths[0] < widths[1]  # what somebody chose makes us surer
    covariance = rewards.covariance("u1")
    assert covariance is not None
    coordinates = rewards.run.basis.coordinates(rewards.embed("Say 1", texts)).double()
    low, high = (known.intervals or [])[0]
    assert high - low == pytest.approx(2 * 1.959964 * float(coordinates[0] @ covariance @ coordinates[0]) ** 0.5)
    assert rewards.rerank("u1", "Say 1", texts) == known
    same = rewards.rerank("u1", "Say 1", [texts[0], texts[1], texts[1]]).best
    assert same is not None
    assert same[1] == same[2]  # what is the same is as good
    assert sum(same) == pytest.approx(1)


def test_where_nothing_tells_people_apart_no_interval_pretends_to() -> None:
    nothing = RewardBasis(torch.zeros(3, 2), torch.ones(3), torch.zeros(2), "gaussian", 0)
    found = reranked("ann", True, nothing, torch.eye(3), torch.zeros(2), torch.eye(2).double())
    assert (found.intervals, found.best) == (None, None)


def test_bad_candidates_are_refused(rewards: PersonalRewards) -> None:
    for candidates, words in (
        ([], "empty"),
        ([3], "chat messages"),
        ([[{"role": "x", "content": "y"}]], "unknown role"),
    ):
        with pytest.raises(DataError, match=words):
            rewards.rerank("u0", "p", candidates)


def test_a_run_of_another_encoder_is_refused(run_folder: Path) -> None:
    with pytest.raises(StoreError, match="encoder was 'letters' and is 'other'"):
        PersonalRewards(Run.load(run_folder), HashEncoder("other"))


def test_the_reward_of_a_trainer_is_that_of_the_person(run_folder: Path, rewards: PersonalRewards) -> None:
    reward = trl_reward(run_folder, HashEncoder())
    found = reward(prompts=["Say 1"] * 2, completions=[LONG, LONG], user_id=["u0", "u1"], step=3)
    expected = [rewards.rerank(user, "Say 1", [LONG]).rewards[0] for user in ("u0", "u1")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert found[0] > found[1]


def test_verl_scores_a_solution_for_its_user(run_folder: Path, rewards: PersonalRewards) -> None:
    compute_score = verl_score(run_folder, HashEncoder())
    for user in ("u0", None):
        told = {"user_id": user, "prompt": "Say 1"}
        expected = rewards.rerank(user, "Say 1", [LONG]).rewards[0]
        assert compute_score("any", LONG, "", told) == pytest.approx(expected, abs=1e-6)
    assert compute_score("any", LONG) == pytest.approx(rewards.rerank(None, None, [LONG]).rewards[0], abs=1e-6)
    with pytest.raises(DataError, match="equally many"):
        rewards.each(["u0"], [], [LONG])


def test_a_run_of_an_encoder_object_asks_for_that_object(run_folder: Path) -> None:
    with pytest.raises(RunError, match="give the same one as `encoder`"):
        PersonalRewards.load(run_folder)
