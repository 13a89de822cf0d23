"""Removing a person from the RUN folder that is served: its table, vectors, weights, split and report."""

import html
import json
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors.torch import load_file

from lore.embedding import Embeddings
from lore.files import read_json, write_json
from lore.preferences import Preferences, text_of
from lore.run import save_users
from lore.serve.service import TENANT, Service
from lore.sources import load

_REPORTS = ("report.html", "report.json")
_LOCK = ".erasing.lock"


def erase_from_run(service: Service, tenant: str, user: str) -> bool:
    """Remove a person of the run, and what only they need; the report goes if it could show them.

    Everything is read anew, one erasure at a time, as another may just have been written, by another process too; the
    table is written last, so that an erasure that was cut short is finished when it is asked for again.

    Returns:
        Whether the run knew them.
    """
    if tenant != TENANT:
        return False
    folder = service.run.folder
    with FileLock(folder / _LOCK):
        preferences = load(folder / "preferences.parquet")
        in_weights = _erase_from_users(folder / "users", user)
        if user not in preferences.users:
            return in_weights
        kept = preferences.without(user)
        _erase_from_split(folder / "split.json", preferences, kept, user)
        texts = _texts(preferences) - _texts(kept)
        for name in _REPORTS:
            path = folder / name
            if path.exists() and _shows(path.read_text(encoding="utf-8"), user, texts):
                path.unlink()
        unneeded = set(preferences.conversation_keys()) - set(kept.conversation_keys())
        Embeddings.drop(folder / "embeddings", sorted(unneeded - service.store.in_use(unneeded)))
        kept.to_parquet(folder / "preferences.parquet")
        service.forget_run(kept)
    return True


def _erase_from_users(folder: Path, user: str) -> bool:
    """Drop a person's weights; whether there were any."""
    ids = read_json(folder / "ids.json")
    if user not in ids:
        return False
    weights = load_file(folder / "weights.safetensors")["weights"]
    rows = [row for row, known in enumerate(ids) if known != user]
    save_users(folder, [ids[row] for row in rows], weights[torch.tensor(rows, dtype=torch.long)])
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
    if split["data"] == after.fingerprint():
        return  # an erasure that was cut short had come as far as this
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
