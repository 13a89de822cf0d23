"""The finding of a report: whether personalizing helps, whom, by how much, and how sure that is."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lore.evaluation.evaluator import HeldOut
from lore.evaluation.intervals import MIN_USERS, Sample
from lore.evaluation.metrics import Gain, accuracy_of_right, gain
from lore.pairs.table import Pairs

GroupVerdict = Literal["helps", "helps here", "hurts", "not personal", "item rate", "unclear", "too few"]
USERS_OF = {"unseen_test": "new users", "seen_test": "users it learned from"}

_ERROR = 0.05  # chance of a false finding, shared by the groups of users that are looked at (Bonferroni)
_SHOWN_GAIN = 5e-4  # half of the last digit of a gain in points: a smaller one is shown as 0.0
# Users, if there are so many, of whom the models must predict a choice differently: among many zeros, Student's
# interval of fewer is not to be trusted.
_MIN_DISCORDANT = 8


@dataclass(frozen=True)
class GroupFinding:
    """The finding about new users, or about the users that the model learned from.

    Attributes:
        setting: "unseen_test" or "seen_test".
        verdict: "helps" for new prompts, or only on those tested ("helps here"); "not personal" if another user's
            weights do as well, "item rate" if a response's win rate does; "too few" users to tell.
        gain: accuracy over pooled. Its intervals share the error of 5 % with those of the other group.
        over_others: accuracy over that with other users' weights; None for a single user.
        over_item_rate: accuracy over the rule that the more successful response wins; None where that cannot be told.
        discordant: users of whom the model and pooled predict some choice differently.
        left_out: users with too few test pairs to be counted.
    """

    setting: str
    verdict: GroupVerdict
    gain: Gain
    over_others: Gain | None
    over_item_rate: Gain | None
    discordant: int
    left_out: int


@dataclass(frozen=True)
class Finding:
    """The finding of a report.

    Attributes:
        groups: new users first, as far as there are test pairs of them.
        has_tastes: whether the model that was chosen predicts any held-out choice otherwise than pooled.
        splits: random splits that the finding is the mean of.
    """

    groups: tuple[GroupFinding, ...]
    has_tastes: bool
    splits: int

    @property
    def headline(self) -> str:
        """One or two plain sentences: whether personalizing helps, which users, and by how much."""
        if not self.has_tastes:
            return (
                "No tastes found: users choose alike in these data, or too little is known of each, and so predictions "
                "are those of one model for all."
            )
        verdicts = {group.verdict for group in self.groups}
        if len(self.groups) == 2 and len(verdicts) == 1 and (both := _of_both(self.groups)) is not None:
            return both
        return f"Personalizing {'; it '.join(_clause(group) for group in self.groups)}."


def find(splits: Sequence[Mapping[str, HeldOut]], *, has_tastes: bool, min_pairs: int) -> Finding:
    """Return the finding of one or several splits.

    Args:
        splits: `Sweep.held_out` of each.
        has_tastes: whether the model that was chosen tells users apart at all.
        min_pairs: test pairs that a user must have to be counted.
    """
    settings = [setting for setting in USERS_OF if any(setting in held_out for held_out in splits)]
    level = 1 - _ERROR / max(len(settings), 1)
    groups = []
    for setting in settings:
        merged = combined([held_out[setting] for held_out in splits if setting in held_out])
        groups.append(_find_group(setting, merged, level, min_pairs))
    differs = any(group.discordant for group in groups)
    return Finding(tuple(groups), has_tastes and differs, len(splits))


def combined(parts: Sequence[HeldOut]) -> HeldOut:
    """Return test pairs of several splits of the same pairs as one: each once, with the mean of how right it was."""
    if len(parts) == 1:
        return parts[0]
    ids = list(dict.fromkeys(user for part in parts for user in part.pairs.users))
    row_of_user = {user: row for row, user in enumerate(ids)}
    pairs = _concatenated([_with_users(part.pairs, row_of_user) for part in parts], tuple(ids))
    if pairs.comparison is not None:
        key = pairs.comparison[None]
    else:
        key = torch.stack([pairs.user, pairs.chosen, pairs.chosen if pairs.rejected is None else pairs.rejected])
    distinct, number = torch.unique(key, dim=1, return_inverse=True)
    first = torch.full((distinct.shape[1],), len(pairs), dtype=torch.long, device=number.device)
    first = first.scatter_reduce(0, number, torch.arange(len(pairs), device=number.device), "amin")
    count = torch.bincount(number).double()
    models = set.intersection(*(set(part.right) for part in parts))
    right = {
        model: torch.zeros_like(count).index_add_(0, number, torch.cat([part.right[model] for part in parts])) / count
        for model in sorted(models)
    }
    return HeldOut(pairs.select(first), right)


def _with_users(pairs: Pairs, row_of_user: Mapping[str, int]) -> Pairs:
    rows = torch.tensor([row_of_user[user] for user in pairs.users], device=pairs.user.device)
    return replace(pairs, user=rows[pairs.user])


def _concatenated(parts: Sequence[Pairs], users: tuple[str, ...]) -> Pairs:
    """Return pairs over one table one after the other."""

    def joined(column: Callable[[Pairs], Tensor | None]) -> Tensor | None:
        columns = [values for part in parts if (values := column(part)) is not None]
        return torch.cat(columns) if len(columns) == len(parts) else None

    return replace(
        parts[0],
        users=users,
        ratings=None,
        chosen=torch.cat([part.chosen for part in parts]),
        rejected=joined(lambda part: part.rejected),
        user=torch.cat([part.user for part in parts]),
        weight=torch.cat([part.weight for part in parts]),
        label=torch.cat([part.label for part in parts]),
        comparison=joined(lambda part: part.comparison),
    )


def _find_group(setting: str, held_out: HeldOut, level: float, min_pairs: int) -> GroupFinding:
    sample = Sample(held_out.pairs, min_pairs)
    measured = {model: accuracy_of_right(right, sample) for model, right in held_out.right.items()}

    def over(rival: str) -> Gain | None:
        return gain(measured["chosen"], measured[rival], level) if rival in measured else None

    over_pooled = gain(measured["chosen"], measured["pooled"], level)
    differs = sample.per_user((held_out.right["chosen"] != held_out.right["pooled"]).double())
    group = GroupFinding(
        setting=setting,
        verdict="unclear",
        gain=over_pooled,
        over_others=over("wrong_user"),
        over_item_rate=over("item_rate"),
        discordant=int((differs[sample.is_counted] > 0).sum()),
        left_out=sample.left_out,
    )
    return replace(group, verdict=_verdict(group))


def _verdict(group: GroupFinding) -> GroupVerdict:
    if group.gain.users < MIN_USERS or group.over_others is None:
        return "too few"
    if group.discordant < min(_MIN_DISCORDANT, group.gain.users):
        return "unclear"
    rivals = [one for one in (group.gain, group.over_others, group.over_item_rate) if one is not None]
    if all(rival.low > _SHOWN_GAIN for rival in rivals):
        return "helps"
    if all(rival.these_prompts.low > _SHOWN_GAIN for rival in rivals):
        return "helps here"
    if group.gain.high < -_SHOWN_GAIN:
        return "hurts"
    if not group.gain.low > _SHOWN_GAIN:
        return "unclear"
    return "item rate" if group.over_others.low > _SHOWN_GAIN else "not personal"


def _of_both(groups: Sequence[GroupFinding]) -> str | None:
    """Return the headline about two groups of users with the same verdict; None if each needs a clause of its own."""
    one, other = groups
    match one.verdict:
        case "helps":
            gains = " and ".join(f"{USERS_OF[group.setting]} by {_points(group.gain)}" for group in groups)
            return f"Personalizing helps {gains}, over one model for all."
        case "helps here":
            gains = " and ".join(f"{USERS_OF[group.setting]} by {_here(group.gain)}" for group in groups)
            sure = " and ".join(_ends(group.gain.low, group.gain.high) for group in groups)
            return (
                f"On the prompts tested, personalizing helps {gains}, over one model for all. For new prompts that is "
                f"not sure: {sure}."
            )
        case "unclear":
            first, second = (f"{USERS_OF[group.setting]}: {_points(group.gain)}" for group in (one, other))
            return f"Personalizing does not measurably help, against one model for all. {_capital(first)}; {second}."
        case _:
            return None


def _clause(group: GroupFinding) -> str:
    """Return what personalizing does to a group of users, as the rest of a sentence."""
    users, points = USERS_OF[group.setting], _points(group.gain)
    match group.verdict:
        case "helps":
            return f"helps {users} by {points} over one model for all"
        case "helps here":
            new = _ends(group.gain.low, group.gain.high)
            return (
                f"helps {users} on the prompts tested, by {_here(group.gain)} over one model for all, but not surely "
                f"on new ones: {new}"
            )
        case "hurts":
            return f"hurts {users}: {points} against one model for all"
        case "not personal":
            rest = _points(group.over_others or group.gain)
            return (
                f"does not surely help {users}: the model is {points} over one model for all, but over other users' "
                f"weights {rest}"
            )
        case "item rate":
            rest = _points(group.over_item_rate or group.gain)
            return (
                f"does not surely help {users} more than a list of popular responses: the model is {points} over one "
                f"model for all, but over the win rate of each response {rest}"
            )
        case "too few":
            return (
                f"cannot be judged for {users}, of whom {group.gain.users} could be tested and {MIN_USERS} are needed"
            )
        case _:
            return f"does not measurably help {users}: {points} against one model for all"


def _points(measured: Gain) -> str:
    """Return a gain in points, with its interval for new users and new prompts."""
    return f"{100 * measured.mean:+.1f} points ({_ends(measured.low, measured.high)})"


def _here(measured: Gain) -> str:
    """Return a gain in points, with its interval for the prompts that were tested."""
    these = measured.these_prompts
    return f"{100 * measured.mean:+.1f} points ({_ends(these.low, these.high)})"


def _ends(low: float, high: float) -> str:
    return "from one prompt that cannot be told" if math.isnan(low) else f"{100 * low:+.1f} to {100 * high:+.1f}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
