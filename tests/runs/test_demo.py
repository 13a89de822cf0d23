from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from lore.data.formats import load
from lore.data.messages import text_of
from lore.embedding import Embeddings, Encoded, load_encoder
from lore.embedding.fingerprints import made_alike
from lore.embedding.packaged import is_installed
from lore.embedding.tokens import Conversation
from lore.runs import demo


def test_the_demo_is_a_run_like_any_other(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(demo._ARGUMENTS, "ranks", (1, 2))
    monkeypatch.setattr(demo, "_USERS", 24)
    outcome = demo.run_demo(tmp_path / "demo")
    assert len(outcome.split.unseen_shots.users) == 6
    assert int(outcome.split.seen_train.counts.max()) == 30
    texts = [text_of(response) for response in load(tmp_path / "demo" / "preferences.parquet").responses]
    assert len(texts) == len(set(texts))


@pytest.mark.skipif(not is_installed("smollm2"), reason="smollm2 is not installed: `lore download smollm2`")
def test_the_vectors_of_the_miniature_are_those_of_the_encoder() -> None:
    table = load(Path(demo.__file__).parent / "miniature.parquet")
    shipped, encoder = Embeddings.load(demo._VECTORS), load_encoder("smollm2")
    assert made_alike(shipped.fingerprint, encoder.fingerprint)
    shown = list(range(0, table.rows, 100))
    vectors = encoder.encode([table.conversation(row) for row in shown]).vectors
    ours = shipped.vectors[shipped.rows(table)[shown]].float()
    assert bool(((ours - vectors).norm(dim=1) < 1e-2 * vectors.norm(dim=1)).all())


def test_the_demo_takes_over_what_was_embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo with the better encoder reads no text with it."""
    monkeypatch.setitem(demo._ARGUMENTS, "ranks", (1, 2))
    monkeypatch.setattr(demo, "_USERS", 24)

    class Unread:
        """An encoder of the fingerprint of the vectors that is not to be asked for any."""

        shipped = Embeddings.load(demo._VECTORS)
        dim, reference, fingerprint = shipped.vectors.shape[1], None, shipped.fingerprint

        def encode(self, conversations: Sequence[Conversation]) -> Encoded:
            assert not conversations
            return Encoded.whole(torch.empty(0, self.dim))

    monkeypatch.setitem(demo._ARGUMENTS, "encoder", Unread())
    outcome = demo.run_demo(tmp_path / "demo")
    assert outcome.sweep.chosen.basis.dim == 576
