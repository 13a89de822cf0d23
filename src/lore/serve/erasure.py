"""Removing a person from the RUN folder that is served: its table, vectors, weights, split and report."""

import html
import json
from pathlib import Path

import numpy as np
import torch

from lore.embedding import Embeddings
from lore.files import read_json, write_json
from lore.preferences import Preferences, text_of
from lore.run import save_users
from lore.serve.service import TENANT, Service

_REPORTS = ("report.html", "report.json")


def erase_from_run(service: Service, tenant: str, user: str) -> bool:
    """Remove a person of the run, and what only they need; the report goes if it could show them.

    Returns:
        Whether the run knew them.
    """
    preferences = service.preferences
    if tenant != TENANT or user not in preferences.users:
        return False
    folder = service.run.folder
    kept = preferences.without(user)
    texts = _texts(preferences) - _texts(kept)
    kept.to_parquet(folder / "preferences.parquet")
    unneeded = set(preferences.conversation_keys()) - set(kept.conversation_keys())
    Embeddings.drop(folder / "embeddings", sorted(unneeded))
    ids = [known for known in service.run.users if known != user]
    rows = torch.tensor([service.run.users[known] for known in ids], dtype=torch.long)
    save_users(folder / "users", ids, service.run.weights[rows])
    _erase_from_split(folder / "split.json", preferences, kept, user)
    for name in _REPORTS:
        path = folder / name
        if path.exists() and _shows(path.read_text(encoding="utf-8"), user, texts):
            path.unlink()
    service.forget_run(kept)
    return True


def _texts(preferences: Preferences) -> set[str]:
    return {text_of(turns) for side in (preferences.prompts, preferences.responses) for turns in side}


def _shows(content: str, user: str, texts: set[str]) -> bool:
    """Whether a report holds the id, or what it would quote of a text that only this person's choices held."""
    pieces = [user, *(text.strip()[:100] for text in texts if text.strip())]
    forms = [form for piece in pieces for form in (piece, html.escape(piece), json.dumps(piece)[1:-1])]
    return any(form in content for form in forms)


def _erase_from_split(path: Path, before: Preferences, after: Preferences, user: str) -> None:
    """Drop the person and their comparisons; the others' are numbered as in the new table."""
    if not path.exists():
        return
    split = read_json(path)
    number = before.users.index(user)
    place = np.cumsum(before.user != number) - 1
    split["data"] = after.fingerprint()
    for name in ("seen_users", "unseen_users"):
        split[name] = [known for known in split[name] if known != user]
    for name, rows in split["comparisons"].items():
        if rows is not None:
            split["comparisons"][name] = [int(place[row]) for row in rows if before.user[row] != number]
            split["pairs"][name] = len(split["comparisons"][name])
    write_json(path, split)
