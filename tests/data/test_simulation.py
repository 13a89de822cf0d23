from importlib.resources import files

import numpy as np
import pytest

from lore.data.formats import load
from lore.data.simulation import Population, draw_weights, simulate
from lore.errors import ConfigError, DataError


def scored_rows(prompts: int = 6) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    rows = []
    for prompt in range(prompts):
        row: dict[str, object] = {"prompt": f"p{prompt}"}
        for response in range(1, 5):
            row[f"response_{response}"] = f"answer {prompt} {response}"
            row |= {f"response_{response}_{scorer}": float(rng.normal()) for scorer in "mn"}
        rows.append(row)
    return rows


def test_people_prefer_the_best_response_to_the_worst() -> None:
    rows = scored_rows()
    people = simulate(load(rows), Population(users=50, concentration=0.01, comparisons=6))
    assert len(people) == 300
    scores = {
        scorer: np.array([[row[f"response_{r}_{scorer}"] for r in range(1, 5)] for row in rows]) for scorer in "mn"
    }
    # With so small a concentration nearly everybody follows one of the two scorers in everything.
    faithful = 0
    for user in range(50):
        mine = np.flatnonzero(people.user == user)
        chosen = [people.conversation(int(people.chosen[at]))[1][0][1].split() for at in mine]
        picked = {int(prompt): int(response) - 1 for _, prompt, response in chosen}
        faithful += any(all(score[p].argmax() == r for p, r in picked.items()) for score in scores.values())
    assert faithful >= 45


def test_the_seed_decides() -> None:
    scored = load(scored_rows())
    first, again, other = (simulate(scored, Population(5, comparisons=3, seed=seed)) for seed in (1, 1, 2))
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


def test_weights_are_on_the_simplex_and_peaked_for_small_concentrations() -> None:
    peaked, even = (draw_weights(200, 5, concentration, np.random.default_rng(0)) for concentration in (0.05, 50.0))
    np.testing.assert_allclose(peaked.sum(1), 1)
    assert np.median(peaked.max(1)) > 0.9
    assert np.median(even.max(1)) < 0.35


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ConfigError, match="users"):
        Population(0)
    with pytest.raises(DataError, match="6 prompts"):
        simulate(load(scored_rows()), Population(3, comparisons=7))
    with pytest.raises(DataError, match="scored"):
        simulate(load([{"user_id": "a", "chosen": "x", "rejected": "y"}]), Population(3, comparisons=1))


def test_the_miniature_has_eight_responses_and_ten_scores_to_each_of_its_prompts() -> None:
    path = files("lore.runs") / "miniature.parquet"
    scored = load(str(path))
    assert len(scored.prompts) >= 120
    assert len(scored.users) == 10
    assert len(scored) >= 8 * 10 * 120 - 200
    assert path.stat().st_size < 1_000_000  # type: ignore[attr-defined]
