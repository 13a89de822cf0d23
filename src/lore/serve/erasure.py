"""Removing a user from the RUN folder that is served: its table, vectors, weights, split and report."""

import html
import json
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from lore.data.builder import without_user
from lore.data.formats import load
from lore.data.messages import text_of
from lore.data.preferences import Preferences
from lore.data.table import save_table
from lore.embedding import Embeddings
from lore.pairs.splits import SPLIT_FORMAT
from lore.runs.added import erase_added, read_added
from lore.runs.artifacts import read_users, save_users
from lore.runs.folder import RunFolder
from lore.serve.service import TENANT, Service

_LOCK = ".erasing.lock"


def erase_from_run(service: Service, tenant: str, user: str) -> bool:
    """Remove a user of the run, and what only they need; the report goes if it could show them.

    Everything is read anew, one erasure at a time, as another may just have been written, by another process too; the
    table is written last, so that an erasure that was cut short is finished when it is asked for again.

    Returns:
        Whether the run knew them.
    """
    if tenant != TENANT:
        return False
    folder = RunFolder(service.run.folder)
    with FileLock(folder.path / _LOCK):
        preferences = load(folder.preferences)
        in_weights = _erase_from_users(folder.users, user)
        added = read_added(folder)
        in_added = erase_added(folder, user)
        if user not in preferences.users:
            if added is not None and in_added:
                _drop_vectors(service, folder, preferences, set(added.conversation_keys()))
            return in_weights or in_added
        remaining = without_user(preferences, user)
        _erase_from_split(folder.split, preferences, remaining, user)
        texts = _texts(preferences) - _texts(remaining)
        for path in (folder.report_html, folder.report_json, folder.user_table):
            if path.exists() and _shows(path.read_text(encoding="utf-8"), user, texts):
                path.unlink()
        before = set(preferences.conversation_keys()) | set([] if added is None else added.conversation_keys())
        _drop_vectors(service, folder, remaining, before)
        save_table(remaining, folder.preferences)
        service.reload_run(remaining)
    return True


def _drop_vectors(service: Service, folder: RunFolder, remaining: Preferences, before: set[bytes]) -> None:
    """Drop the vectors of conversations that were needed before and are not now."""
    added = read_added(folder)
    needed = set(remaining.conversation_keys()) | set([] if added is None else added.conversation_keys())
    unneeded = before - needed
    Embeddings.drop(folder.embeddings, sorted(unneeded - service.store.events.in_use(unneeded)))


def _erase_from_users(folder: Path, user: str) -> bool:
    """Drop a user's weights; return True if there were any."""
    ids, weights = read_users(folder)
    if user not in ids:
        return False
    rows = [row for row, other in enumerate(ids) if other != user]
    save_users(folder, [ids[row] for row in rows], weights[torch.tensor(rows, dtype=torch.long)])
    return True


def _texts(preferences: Preferences) -> set[str]:
    return {text_of(turns) for side in (preferences.prompts, preferences.responses) for turns in side}


def _shows(content: str, user: str, texts: set[str]) -> bool:
    """Return True if a report holds the id, or what it would quote of a text that only this user's choices held."""
    pieces = [user, *(text.strip()[:100] for text in texts if text.strip())]
    forms = [
        form
        for piece in pieces
        for form in (piece, html.escape(piece), json.dumps(piece)[1:-1], piece.replace('"', '""'))
    ]
    return any(form in content for form in forms)


def _erase_from_split(path: Path, before: Preferences, after: Preferences, user: str) -> None:
    """Drop the user and their comparisons; the others' are numbered as in the new table."""
    if not path.exists():
        return
    _, split = SPLIT_FORMAT.read(path)
    if split["data"] == after.fingerprint():
        return  # an erasure that was cut short had come as far as this
    number = before.users.index(user)
    position = np.cumsum(before.user != number) - 1
    split["data"] = after.fingerprint()
    for name in ("seen_users", "unseen_users"):
        split[name] = [other for other in split[name] if other != user]
    for name, rows in split["comparisons"].items():
        if rows is not None:
            split["comparisons"][name] = [int(position[row]) for row in rows if before.user[row] != number]
            split["pairs"][name] = len(split["comparisons"][name])
    SPLIT_FORMAT.write(path, split)
