"""`lore score`: rewards for a whole file of (user_id, prompt, response) rows."""

from pathlib import Path
from typing import Any

import torch

from lore.embedding import encode
from lore.errors import DataError
from lore.preferences import Findings, Origin, PreferencesBuilder
from lore.progress import Progress, silent
from lore.run import Run
from lore.sources.fields import Rejected, Row
from lore.sources.records import read_records


def score_file(run: str | Path, data: str | Path, *, progress: Progress = silent) -> list[dict[str, Any]]:
    """The reward of each row, in order, with the user and whether the weights are the user's own.

    Every distinct conversation is embedded once; what the run has embedded already is read from its store.

    Raises:
        DataError: a row cannot be used; nothing is scored.
    """
    known = Run.load(run)
    builder = PreferencesBuilder(Origin())
    findings = Findings(builder.origin)
    users: list[str] = []
    mentions: list[int] = []
    for place, record in read_records(data, builder.origin, findings):
        row = Row(place, record, findings)
        try:
            user, response = row.identifier("user_id"), row.turns("response", "assistant")
            mentions.append(builder.row(row.prompt(), response))
            users.append(user)
        except Rejected:
            continue
    faults = [found.message for found in findings if found.fatal]
    if faults or not users:
        raise DataError(faults[0] if faults else f"{data}: is empty; give at least one row")
    table = builder.build()
    embeddings = encode(table, known.encoder, known.folder / "embeddings", options=known.options, progress=progress)
    vectors = embeddings.vectors[embeddings.rows(table)].float()
    coordinates, common = known.basis.coordinates(vectors), known.basis.common_rewards(vectors)
    population = known.basis.population.to(known.weights)
    weights = torch.stack([known.weights[known.users[user]] if user in known.users else population for user in users])
    index = torch.from_numpy(builder.rows()[mentions])
    rewards = (coordinates[index] * weights).sum(1) + common[index]
    return [
        {"user_id": user, "reward": reward, "personalized": user in known.users}
        for user, reward in zip(users, rewards.tolist(), strict=True)
    ]
