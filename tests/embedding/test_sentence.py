from pathlib import Path

import torch

import tiny_models
from embedding_builders import CONVERSATIONS, conversation
from lore.embedding import EncoderOptions, load_encoder
from lore.embedding.tokens import CUT


def test_minilm_does_not_depend_on_its_neighbours_and_says_what_it_cut() -> None:
    encoder = load_encoder("minilm")
    texts = ["short", "a little longer than that", "word " * 400, ""]
    conversations = [((), (("assistant", text),)) for text in texts]
    together = encoder.encode(conversations)
    assert together.status.tolist() == [0, 0, CUT, 0]
    assert together.vectors.shape == (4, 769)
    response, prompt, length = together.vectors.split([384, 384, 1], dim=1)
    torch.testing.assert_close(response.norm(dim=1), torch.full((4,), 0.5**0.5))
    assert bool((prompt == 0).all())  # nothing was asked
    characters = torch.tensor([float(len(text)) for text in texts])
    torch.testing.assert_close(length.squeeze(1), 0.3 * (characters.log1p() - 6))  # of the whole text, cut or not
    asked, other = (encoder.encode([conversation(prompt, "short")]).vectors[0] for prompt in ("Why?", "Who are you?"))
    torch.testing.assert_close(asked[:384], together.vectors[0, :384], atol=1e-5, rtol=0)
    assert float((asked - other)[:384].abs().max()) < 1e-5 < float((asked - other)[384:].abs().max())
    assert asked[768] == other[768]
    for at, one in enumerate(conversations):
        torch.testing.assert_close(encoder.encode([one]).vectors[0], together.vectors[at], atol=1e-5, rtol=0)
    assert float(response[0] @ response[1]) < 0.99


def test_a_sentence_encoder_pools_as_its_folder_says(tmp_path: Path) -> None:
    folder = tiny_models.save(tmp_path, "sentence")
    mean = load_encoder(str(folder)).encode(CONVERSATIONS).vectors
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    first = load_encoder(str(folder))
    assert first.fingerprint["pooling"] == "first, length 1"
    assert not torch.allclose(first.encode(CONVERSATIONS).vectors, mean)
    last = load_encoder(str(folder), EncoderOptions(pooling="last")).encode(CONVERSATIONS).vectors
    assert not torch.allclose(last, mean)
