"""`lore score`: rewards for a whole file of (user_id, prompt, response) rows."""

from pathlib import Path
from typing import Any

import torch

from lore.data.builder import PreferencesBuilder
from lore.data.formats.readers import is_untyped, read_records
from lore.data.formats.rows import Row, RowContext, SkipRow
from lore.data.issues import IssueLog, SourceLocations
from lore.embedding.encoder import Encoder
from lore.embedding.store import encode
from lore.errors import DataError
from lore.progress import Progress, silent
from lore.runs.artifacts import Run
from lore.runs.folder import RunFolder


def score_file(
    run: str | Path, data: str | Path, *, encoder: Encoder | None = None, progress: Progress = silent
) -> list[dict[str, Any]]:
    """Return the reward of each row, in order, with the user and whether the weights are the user's own.

    Every distinct conversation is embedded once; what the run has embedded already is read from its store.

    Raises:
        DataError: a row cannot be used; nothing is scored.
    """
    finished = Run.load(run)
    builder = PreferencesBuilder(SourceLocations())
    issues = IssueLog(builder.origin)
    context = RowContext(issues, untyped=is_untyped(data))
    users: list[str] = []
    mentions: list[int] = []
    for row_ref, record in read_records(data, builder.origin, issues):
        row = Row(row_ref, record, context)
        try:
            user = row.identifier("user_id")
            prompt, (response,) = row.conversation([row.messages("response", "assistant")])
            mentions.append(builder.row(prompt, response))
            users.append(user)
        except SkipRow:
            continue
    faults = [issue.message for issue in issues if issue.fatal]
    if faults or not users:
        raise DataError(faults[0] if faults else f"{data}: is empty; give at least one row")
    table = builder.build()
    embeddings = encode(
        table,
        encoder or finished.encoder,
        RunFolder(finished.folder).embeddings,
        options=finished.options,
        progress=progress,
    )
    vectors = embeddings.vectors[embeddings.rows(table)].float()
    coordinates, common = finished.basis.coordinates(vectors), finished.basis.common_rewards(vectors)
    population = finished.basis.population.to(finished.weights)
    weights = torch.stack(
        [finished.weights[finished.users[user]] if user in finished.users else population for user in users]
    )
    index = torch.from_numpy(builder.rows()[mentions])
    rewards = (coordinates[index] * weights).sum(1) + common[index]
    return [
        {"user_id": user, "reward": reward, "personalized": user in finished.users}
        for user, reward in zip(users, rewards.tolist(), strict=True)
    ]
