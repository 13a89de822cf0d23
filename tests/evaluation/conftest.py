from dataclasses import replace

import pytest
import torch

from builders import random_pairs
from lore.pairs.splits import Split, split


@pytest.fixture
def parts() -> Split:
    pairs = random_pairs(users=20, rows=40, pairs=2000, polar=True)
    pairs = replace(pairs, group=torch.arange(40) // 4, length=torch.arange(40).float())
    return split(pairs, unseen=0.3, test=0.4)
