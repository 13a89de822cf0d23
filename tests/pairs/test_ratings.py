from dataclasses import replace

import torch

from builders import random_pairs
from lore.data.formats import load
from lore.pairs.splits import split
from pairs_builders import embedded, rating_rows


def test_ratings_give_strict_pairs_across_items_drawn_in_each_part() -> None:
    preferences = load(rating_rows())
    assert preferences.ratings is not None
    assert preferences.ratings.across_prompts
    pairs = embedded(rating_rows(), pairs_per_user=15)
    assert int(pairs.counts.max()) == 15
    parts = split(pairs, unseen=0.25, test=0.4)
    ratings = pairs.ratings
    table = zip(ratings.user.tolist(), ratings.row.tolist(), ratings.rating.tolist(), strict=True)
    rating = {(user, row): value for user, row, value in table}
    for name, part in parts.parts().items():
        assert 0 < int(part.counts.max()) <= 15, name
        ids = [pairs.users.index(user) for user in part.users]
        for u, c, r in zip(part.user.tolist(), part.chosen.tolist(), part.rejected.tolist(), strict=True):
            assert rating[ids[u], c] > rating[ids[u], r]


def test_ratings_of_several_responses_to_a_prompt_are_compared_within_it() -> None:
    pairs = embedded(rating_rows(prompt=True))
    assert (pairs.group[pairs.chosen] == pairs.group[pairs.rejected]).all()


def test_a_user_with_very_many_ratings_is_drawn_from_not_listed() -> None:
    rows = torch.arange(1500)
    pairs = embedded(rating_rows(users=2, items=4))
    many = replace(pairs.ratings, user=torch.zeros(1500, dtype=torch.long), row=rows, rating=(rows % 7).double())
    drawn = replace(pairs, ratings=many).redraw(stream=0)
    assert len(drawn) == 200
    assert (drawn.chosen % 7 > drawn.rejected % 7).all()
    assert len(replace(pairs, ratings=many).redraw(stream=0, mask=torch.zeros(1500, dtype=torch.bool))) == 0
    assert random_pairs().redraw(stream=0).ratings is None
