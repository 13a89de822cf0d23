"""The table of users behind a report, as `users.csv`."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from lore.evaluation.calibration import probabilities
from lore.evaluation.metrics import correct
from lore.evaluation.significance import Verdict, verdicts
from lore.evaluation.sweep import Sweep
from lore.pairs.splits import Split

_COLUMNS = ("user", "users", "learned_from", "tested_on", "accuracy", "pooled", "gain", "p_value", "verdict")


@dataclass(frozen=True)
class UserRow:
    """A user with held-out choices.

    Attributes:
        user: id.
        is_new: whether the basis was learned without them.
        learned_from: pairs that their weights were learned from.
        tested_on: held-out pairs.
        accuracy: of the chosen model on these.
        pooled: accuracy of one model for all.
        p_value: of "both predict this user alike" (`verdicts`).
        verdict: whether personalizing surely helps this user, among those of the same part.
    """

    user: str
    is_new: bool
    learned_from: int
    tested_on: int
    accuracy: float
    pooled: float
    p_value: float
    verdict: Verdict

    @property
    def gain(self) -> float:
        """Accuracy less that of pooled."""
        return self.accuracy - self.pooled


def user_rows(split: Split, sweep: Sweep) -> list[UserRow]:
    """Return each user with held-out choices, new users first, within a part by the gain, the highest first."""
    rows = []
    for trained, test, is_new in (
        (split.unseen_shots, split.unseen_test, True),
        (split.seen_train, split.seen_test, False),
    ):
        if not len(test):
            continue
        personal, common = (
            probabilities(test, fit.basis, sweep.weights(trained, fit.basis)) for fit in (sweep.chosen, sweep.pooled)
        )
        tests = verdicts(test, personal, common)
        names = tests.names()
        accuracies = [
            _means(test.user.tolist(), correct(test, chance - 1 / 2).tolist()) for chance in (personal, common)
        ]
        part = [
            UserRow(
                user=test.users[user],
                is_new=is_new,
                learned_from=int(trained.counts[user]),
                tested_on=int(test.counts[user]),
                accuracy=accuracies[0][user],
                pooled=accuracies[1][user],
                p_value=float(tests.p_value[user]),
                verdict=names[user],
            )
            for user in accuracies[0]
        ]
        rows += sorted(part, key=lambda row: -row.gain)
    return rows


def users_csv(rows: Sequence[UserRow], *, redact: bool) -> str:
    """Return the table as CSV; with `redact`, users are numbered instead of named."""
    target = io.StringIO()
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for number, row in enumerate(rows, 1):
        measured = [f"{value:.4f}" for value in (row.accuracy, row.pooled, row.gain)]
        name, part = f"user {number}" if redact else row.user, "new" if row.is_new else "seen"
        p_value = "" if math.isnan(row.p_value) else f"{row.p_value:.4g}"
        writer.writerow([name, part, row.learned_from, row.tested_on, *measured, p_value, row.verdict])
    return target.getvalue()


def _means(users: Sequence[int], values: Sequence[float]) -> dict[int, float]:
    """Return the mean of the values of each user."""
    by_user: dict[int, list[float]] = {}
    for user, value in zip(users, values, strict=True):
        by_user.setdefault(user, []).append(value)
    return {user: sum(values) / len(values) for user, values in by_user.items()}
