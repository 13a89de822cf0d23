"""The documented names of the original, over this library; for code and notes that were written for it.

Draws come from the same global random streams in the same order, and the same number of Adam steps is taken. Where the
original was wrong the right thing is done: a reference of `[dim]` and of `[dim, 1]` is a vector, and the loss stays
finite at any margin. New code uses `lore.fit_basis` and `lore.fit_weights`, which converge.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lore.objective import pair_loss, penalty
from lore.simplex import from_logits

TEMPERATURE = 100.0  # Bose et al. 2025 divide margins by this


def generate_popupulation(alpha: Any, N: int) -> Any:  # noqa: N803 - the documented name
    """People's weights over reward models, `[N, models]`, from a Dirichlet distribution with parameters `alpha`."""
    return np.random.dirichlet(alpha, N)


def simulate_user(reward_tensor: Any, features: Any, w: Any) -> Tensor:
    """Best minus worst response for one person, `[prompts, dim]`.

    Args:
        reward_tensor: scores `[prompts, responses, models]`, or `[responses, models]` of one prompt.
        features: embeddings, `[prompts][responses]` tensors `[dim]`, or `[responses]` of one prompt.
        w: weights over the models, `[models]`.
    """
    scores = np.asarray(reward_tensor, dtype=np.float64)
    if scores.ndim == 2:  # one prompt, as the documentation's example has it
        scores, features = scores[None], [features]
    rewards = scores @ np.asarray(w, dtype=np.float64)
    best, worst = rewards.argmax(axis=1), rewards.argmin(axis=1)
    return torch.stack([features[at][best[at]] - features[at][worst[at]] for at in range(len(rewards))])


def simulate_population(reward_tensor: Any, features: Any, W: Any) -> Tensor:  # noqa: N803 - the documented name
    """`simulate_user` for every row of `W` `[N, models]`: `[N, prompts, dim]`."""
    return torch.stack([simulate_user(reward_tensor, features, w) for w in W])


def create_sparse_tensor(dense_tensor: Tensor, sample_percentage: float) -> list[Tensor]:
    """For each person `floor(sample_percentage * prompts)` rows of `[N, prompts, dim]`, drawn without replacement."""
    prompts = dense_tensor.shape[1]
    kept = int(sample_percentage * prompts)
    drawn = (np.random.choice(prompts, kept, replace=False) for _ in dense_tensor)
    return [own[torch.from_numpy(rows)].float() for own, rows in zip(dense_tensor, drawn, strict=True)]


def sample_shots(features: Sequence[Tensor], shots: int) -> list[Tensor]:
    """At most `shots` random rows of every tensor `[pairs, dim]`."""
    return [own[torch.randperm(len(own))[:shots]] for own in features]


def evaluate_model(X: Tensor, V: Tensor, w: Any) -> float:  # noqa: N803 - the documented names
    """Share of rows of `X` `[pairs, dim]` with a positive margin, for a basis `[dim, rank]` and weights `[rank]`."""
    return float((X @ V @ torch.as_tensor(w).to(X) > 0).float().mean())


def _packed(X: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # noqa: N803 - the documented name
    """All rows `[pairs, dim]`, and the user of each."""
    counts = torch.tensor([len(own) for own in X])
    return torch.cat(list(X)), torch.repeat_interleave(torch.arange(len(X)), counts)


def _summed_means(projected: Tensor, weights: Tensor, user: Tensor) -> Tensor:
    """Sum over users of the mean over their pairs of the loss."""
    margin = (projected * weights[user]).sum(1)
    loss = pair_loss(margin, torch.ones_like(margin), TEMPERATURE)
    return (loss / torch.bincount(user, minlength=len(weights))[user]).sum()


class LoRe(nn.Module):
    """Joint Adam on basis and weights with an L2 penalty toward a reference (Bose et al. 2025)."""

    def __init__(
        self,
        V_sft: Tensor,  # noqa: N803 - the documented name
        alpha: float,
        num_classes: int,
        num_features: int,
        num_basis_vectors: int,
        num_iterations: int = 1000,
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__()
        self.V_sft, self.alpha = V_sft.flatten(), alpha
        self.num_iterations, self.learning_rate = num_iterations, learning_rate
        self.W = nn.Parameter(torch.randn(num_classes, num_basis_vectors))
        self.V = nn.Parameter(torch.randn(num_features, num_basis_vectors))

    def forward(self, X: Sequence[Tensor]) -> tuple[Tensor, Tensor]:  # noqa: N803 - the documented name
        """Loss and penalty for one tensor `[pairs, dim]` a user."""
        return self._forward(*_packed(X))

    def _forward(self, rows: Tensor, user: Tensor) -> tuple[Tensor, Tensor]:
        nll = _summed_means(rows @ self.V, from_logits(self.W), user)
        return nll, penalty(self.V, self.V_sft.to(self.V), self.alpha, "distance").value.to(nll)

    def train(self, X: Any = True) -> Any:  # noqa: N803 - the documented name
        """Take the Adam steps; softmax weights `[users, rank]` and the basis. With True or False, the module's mode."""
        if isinstance(X, bool):
            return super().train(X)
        rows, user = _packed(X)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        for _ in range(self.num_iterations):
            optimizer.zero_grad()
            nll, reg = self._forward(rows, user)
            (nll + reg).backward()
            optimizer.step()
        return from_logits(self.W), self.V


class PersonalizeBatch(nn.Module):
    """Adam on the weights of new users, the basis fixed."""

    def __init__(
        self,
        num_classes: int,
        num_features: int,
        num_basis_vectors: int,
        num_iterations: int = 1000,
        learning_rate: float = 0.01,
    ) -> None:
        super().__init__()
        del num_features
        self.num_iterations, self.learning_rate = num_iterations, learning_rate
        self.w = nn.ParameterList(torch.randn(num_basis_vectors) for _ in range(num_classes))

    def forward(self, X: Sequence[Tensor], V: Tensor) -> Tensor:  # noqa: N803 - the documented names
        """Sum over users of their mean loss."""
        rows, user = _packed(X)
        return _summed_means(rows @ V, from_logits(torch.stack(list(self.w))), user)

    def train(self, X: Any = True, V: Tensor | None = None) -> Any:  # noqa: N803 - the documented names
        """Take the Adam steps; a list of softmax weights `[rank]`. With True or False, the module's mode."""
        if isinstance(X, bool) or V is None:
            return super().train(X)
        rows, user = _packed(X)
        projected = (rows @ V).detach()
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        for _ in range(self.num_iterations):
            optimizer.zero_grad()
            loss = _summed_means(projected, from_logits(torch.stack(list(self.w))), user)
            loss.backward()
            optimizer.step()
        return [from_logits(w).detach() for w in self.w]


def learn_multiple_few_shot(
    feats: Sequence[Tensor],
    V: Tensor,  # noqa: N803 - the documented name
    num_iterations: int = 1000,
    learning_rate: float = 0.01,
) -> list[Tensor]:
    """`PersonalizeBatch` for tensors `[pairs, dim]` of new users: a list of weights `[rank]`."""
    model = PersonalizeBatch(len(feats), V.shape[0], V.shape[1], num_iterations, learning_rate)
    weights: list[Tensor] = model.train(feats, V)
    return weights
