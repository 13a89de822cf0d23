"""The documented names of the original, over this library; for code and notes that were written for it.

Draws come from the same global random streams in the same order, and the same number of Adam steps is taken. Where the
original was wrong the right thing is done (docs/compat.md lists each difference): a reference of `[dim]` and of
`[dim, 1]` is a vector, the loss is finite at any margin, weights sum to one after pruning too. New code uses
`lore.fit_basis` and `lore.fit_weights`, which converge. Parameters have their documented names: X and feats are one
tensor `[pairs, dim]` a user, V a basis `[dim, rank]`, W weights `[users, rank]`, alpha a strength.
"""

import itertools
import logging
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from lore.data.simulation import SimulatedChoices, best_against_worst
from lore.errors import ShapeError
from lore.files import replacing
from lore.solvers import adam as recipe
from lore.solvers.simplex import from_logits

__all__ = [
    "LoRe", "LoRe_regularized", "PersonalizeBatch", "create_dataset_prism", "create_dataset_prism_shots",
    "create_sparse_tensor", "eval_multiple", "evaluate_model", "generate_popupulation", "group_embeddings_by_user",
    "learn_multiple_few_shot", "run", "run_few_shot_vary_shots", "run_regularized", "sample_shots",
    "simulate_population", "simulate_user", "solve_regularized", "solve_regularized_simplex",
]  # fmt: skip

_REGULARIZED_STEPS = 20_000  # of `run_regularized`
_STD_FACTOR = 0.25  # of the documented standard deviations of `run`

Users = Sequence[Tensor]  # one tensor `[pairs, dim]` a user
Dialogs = Mapping[Any, Mapping[str, Sequence[Tensor]]]  # the "chosen" and "rejected" embeddings of each dialog
Solution = tuple[Tensor, Tensor]  # weights `[users, rank]` and basis `[dim, rank]`

_log = logging.getLogger(__name__)


def generate_popupulation(alpha: Any, N: int) -> Any:
    """Users' weights over reward models, `[N, models]`, from a Dirichlet distribution with parameters `alpha`."""
    return np.random.dirichlet(alpha, N)


def simulate_user(reward_tensor: Any, features: Any, w: Any) -> Tensor:
    """Best minus worst response for one user: `[prompts, dim]`, from scores `[prompts, responses, models]`.

    Of one prompt `[1, dim]`, from scores `[responses, models]` and a list of embeddings `[dim]`.
    """
    scores = np.asarray(reward_tensor, dtype=np.float64)
    one = scores.ndim == 2
    return cast(Tensor, simulate_population(scores[None] if one else scores, [features] if one else features, [w])[0])


def simulate_population(reward_tensor: Any, features: Any, W: Any) -> SimulatedChoices:
    """`simulate_user` for every row of `W` `[N, models]`: `[N, prompts, dim]`, computed where it is looked at."""
    embeddings = features if isinstance(features, Tensor) else torch.stack([torch.stack(list(row)) for row in features])
    return best_against_worst(np.asarray(reward_tensor, dtype=np.float64), embeddings, np.asarray(W, dtype=np.float64))


def create_sparse_tensor(dense_tensor: Any, sample_percentage: float) -> list[Tensor]:
    """Draw `floor(sample_percentage * prompts)` rows of `[N, prompts, dim]` for each user, without replacement."""
    prompts = dense_tensor.shape[1]
    count = int(sample_percentage * prompts)
    drawn = (np.random.choice(prompts, count, replace=False) for _ in range(len(dense_tensor)))
    return [dense_tensor[user, torch.from_numpy(rows)].float() for user, rows in enumerate(drawn)]


def _differences(dialogs: Sequence[Mapping[str, Sequence[Tensor]]]) -> Tensor:
    """Chosen minus rejected, `[pairs, dim]`, dialog by dialog; `[0, 0]` without any."""
    rows = [a - b for dialog in dialogs for a, b in zip(dialog["chosen"], dialog["rejected"], strict=True)]
    return torch.stack(rows) if rows else torch.zeros(0, 0)


def create_dataset_prism(embeddings: Mapping[Any, Dialogs]) -> list[Tensor]:
    """Pairs `[pairs, dim]` of every user, from `{user: {dialog: {"chosen": [...], "rejected": [...]}}}`."""
    return [_differences(list(dialogs.values())) for dialogs in embeddings.values()]


def create_dataset_prism_shots(embeddings: Mapping[Any, Dialogs], shots: int) -> list[Tensor]:
    """Return the same differences from at most `shots` random dialogs of every user."""
    by_user = [list(dialogs.values()) for dialogs in embeddings.values()]
    drawn = [sorted(random.sample(range(len(dialogs)), min(shots, len(dialogs)))) for dialogs in by_user]
    samples = [[dialogs[index] for index in indices] for dialogs, indices in zip(by_user, drawn, strict=True)]
    return [_differences(dialogs) for dialogs in samples]


def group_embeddings_by_user(
    train: Sequence[Mapping[str, Any]], test: Sequence[Mapping[str, Any]], device: Any
) -> tuple[list[Tensor], ...]:
    """Pairs of users in order of ids, of entries in the list of their own split: train seen, train unseen, test ..."""
    grouped: dict[tuple[str, bool], dict[str, list[Tensor]]] = {}
    for split, entries in (("train", train), ("test", test)):
        for info in (entry["extra_info"] for entry in entries):
            if info["split"] == split and info["user_id"]:
                chosen, rejected = (torch.as_tensor(info[f"{side}_conv_embedding"]) for side in ("chosen", "rejected"))
                part = grouped.setdefault((split, bool(info["seen"])), {})
                part.setdefault(str(info["user_id"]), []).append(chosen - rejected)
    parts = (grouped.get(part, {}) for part in itertools.product(("train", "test"), (True, False)))
    return tuple([torch.stack(rows).to(device) for _, rows in sorted(part.items())] for part in parts)


def sample_shots(features: Sequence[Tensor], shots: int) -> list[Tensor]:
    """Draw at most `shots` random rows of every tensor `[pairs, dim]`."""
    return [user_pairs[torch.randperm(len(user_pairs))[:shots]] for user_pairs in features]


def evaluate_model(X: Tensor, V: Tensor, w: Any) -> float:
    """Share of rows of `X` `[pairs, dim]` with a positive margin, for a basis `[dim, rank]` and weights `[rank]`."""
    return float((X @ (V @ torch.as_tensor(w).to(V)) > 0).float().mean())


def eval_multiple(W_list: Sequence[Any], V_list: Sequence[Tensor], test: Sequence[Tensor]) -> list[float]:
    """`evaluate_model` for every user; mean and standard deviation go to the log."""
    accuracies = [evaluate_model(*user) for user in zip(test, V_list, W_list, strict=True)]
    _log.info("accuracy %.4f, standard deviation over users %.4f", np.mean(accuracies), np.std(accuracies))
    return accuracies


class _Joint(nn.Module, ABC):
    """Logits `W` `[num_classes, num_basis_vectors]` and a basis `V` `[num_features, num_basis_vectors]`."""

    def __init__(
        self,
        V_sft: Tensor, alpha: float, num_classes: int, num_features: int, num_basis_vectors: int,
        num_iterations: int = 1000, learning_rate: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.V_sft, self.alpha = V_sft.flatten(), alpha
        self.num_classes, self.num_features, self.num_basis_vectors = num_classes, num_features, num_basis_vectors
        self.num_iterations, self.learning_rate = num_iterations, learning_rate
        self.W = nn.Parameter(self._begin(num_classes, num_basis_vectors))
        self.V = nn.Parameter(torch.randn(num_features, num_basis_vectors))
        self.V_sft_norm = functional.normalize(self.V_sft, dim=0)
        self.optimizer_W, self.optimizer_V = (torch.optim.Adam([part], lr=learning_rate) for part in (self.W, self.V))

    def _begin(self, users: int, rank: int) -> Tensor:
        return torch.randn(users, rank)

    def train(self, X: Any = True) -> Any:
        """Take the Adam steps; weights `[users, rank]` and basis `[dim, rank]`. With True or False, the mode."""
        if isinstance(X, bool):
            return super().train(X)
        rows, user = recipe.stack_users(X)
        self.to(rows.device)
        return self._trained(rows, user)

    @abstractmethod
    def _trained(self, rows: Tensor, user: Tensor) -> Solution:
        """Weights and basis after all steps."""


class LoRe(_Joint):
    """Joint Adam on basis and weights with an L2 penalty toward a reference (Bose et al. 2025)."""

    def forward(self, X: Users) -> Solution:
        """Loss and penalty for one tensor `[pairs, dim]` a user."""
        table = recipe.summed_means(*recipe.stack_users(X))
        reg = recipe.drawn(self.V, self.V_sft, self.alpha, "distance")
        return recipe.loss(table, recipe.projected(table, self.V), self.W), reg

    def _trained(self, rows: Tensor, user: Tensor) -> Solution:
        table, steps, rate = recipe.summed_means(rows, user), self.num_iterations, self.learning_rate
        recipe.joint_adam(table, self.W, self.V, self.V_sft, self.alpha, steps=steps, rate=rate)
        return from_logits(self.W), self.V


class LoRe_regularized(_Joint):  # noqa: N801 - the documented name
    """Adam on weights and basis in turn with a cosine penalty that is ramped up; unused directions are dropped."""

    _prepare_batch = staticmethod(recipe.stack_users)

    def _begin(self, users: int, rank: int) -> Tensor:
        return torch.rand(users, rank)

    def _forward_from_packed(self, X_cat: Tensor, y: Tensor, alpha_curr: float) -> tuple[Tensor, Any, float]:
        """Mean loss over pairs, mean of one minus cosine (0 where `alpha_curr` is 0), and 0."""
        table = recipe.mean(X_cat, y)
        reg = recipe.drawn(self.V, self.V_sft_norm, 1.0, "cosine") if alpha_curr > 0 else 0.0
        return recipe.loss(table, recipe.projected(table, self.V), self.W), reg, 0.0

    def _alpha_at_step(self, step: int) -> float:
        """0 for a fifth of the steps, then linear up to `alpha` at four fifths."""
        return recipe.ramp(self.alpha, step, self.num_iterations)

    def _trained(self, rows: Tensor, user: Tensor) -> Solution:
        strengths = [self._alpha_at_step(step) for step in range(self.num_iterations)]
        optimizers = (self.optimizer_W, self.optimizer_V)
        recipe.alternating_adam(recipe.mean(rows, user), self.W, self.V, self.V_sft_norm, strengths, optimizers)
        return recipe.pruned(from_logits(self.W), self.V)


class PersonalizeBatch(nn.Module):
    """Adam on the weights of new users, the basis fixed."""

    def __init__(
        self,
        num_classes: int, num_features: int, num_basis_vectors: int,
        num_iterations: int = 1000, learning_rate: float = 0.01,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_classes, self.num_features, self.num_basis_vectors = num_classes, num_features, num_basis_vectors
        self.num_iterations, self.learning_rate = num_iterations, learning_rate
        self.w = nn.ParameterList(torch.randn(num_basis_vectors) for _ in range(num_classes))

    def forward(self, X: Users, V: Tensor) -> Tensor:
        """Sum over users of their mean loss."""
        table = recipe.summed_means(*recipe.stack_users(X))
        return recipe.loss(table, table.project(V), torch.stack(list(self.w)))

    def train(self, X: Any = True, V: Tensor | None = None) -> Any:
        """Take the Adam steps; a list of softmax weights `[rank]`. With True or False, the module's mode."""
        if isinstance(X, bool) or V is None:
            return super().train(X)
        table = recipe.summed_means(*recipe.stack_users(X))
        self.to(table.vectors.device)
        start, steps, rate = torch.stack(list(self.w)), self.num_iterations, self.learning_rate
        logits = recipe.few_shot_adam(table, start, V, steps=steps, rate=rate)
        for parameter, learned in zip(self.w, logits, strict=True):
            parameter.data.copy_(learned)
        return list(from_logits(logits))


def learn_multiple_few_shot(
    feats: Users, V: Tensor, num_iterations: int = 1000, learning_rate: float = 0.01
) -> list[Tensor]:
    """`PersonalizeBatch` for tensors `[pairs, dim]` of new users: a list of weights `[rank]`."""
    model = PersonalizeBatch(len(feats), V.shape[0], V.shape[1], num_iterations, learning_rate)
    return cast(list[Tensor], model.train(feats, V))


def solve_regularized(
    V_sft: Tensor, alpha: float, feats: Users, K: int, num_iterations: int = 1000, learning_rate: float = 0.01
) -> Solution:
    """`LoRe`, trained: weights `[users, K]`, and the basis `[dim, K]` detached."""
    weights, basis = LoRe(V_sft, alpha, len(feats), feats[0].shape[1], K, num_iterations, learning_rate).train(feats)
    return weights, basis.detach()


def solve_regularized_simplex(
    V_sft: Tensor, alpha: float, feats: Users, K: int, num_iterations: int = 1000, learning_rate: float = 0.01
) -> Solution:
    """`LoRe_regularized`, trained, for embeddings of any size."""
    sizes = (len(feats), feats[0].shape[1], K)
    weights, basis = LoRe_regularized(V_sft, alpha, *sizes, num_iterations, learning_rate).train(feats)
    return weights, basis.detach()


def _moved(device: Any, N: int, N_unseen: int, *parts: Users) -> list[list[Tensor]]:
    """Parts on a device, the seen users' first and the unseen users' last."""
    users = (len(parts[0]), len(parts[-1]))
    if (N, N_unseen) != users:
        raise ShapeError(f"`N` and `N_unseen` must be the numbers of users, {users}, got {N, N_unseen}")
    return [[user_pairs.to(device) for user_pairs in part] for part in parts]


def _basis(
    solve: Callable[..., Solution], V_final: Tensor, alpha: float, train: Users, rank: int, steps: int
) -> Solution:
    """Weights and basis at learning rate 0.5; rank 0 is the reference with weight 1."""
    if rank == 0:
        return torch.ones(len(train), 1), V_final.reshape(-1, 1)
    weights, basis = solve(V_final, alpha, train, rank, steps, 0.5)
    return weights.detach(), basis


def _few_shot(users: Users, basis: Tensor, rank: int, rate: float) -> Sequence[Tensor]:
    """Weights of unseen users by 500 steps; 1 at ranks 0 and 1."""
    return learn_multiple_few_shot(users, basis, 500, rate) if rank > 1 else [torch.ones(1)] * len(users)


def _accuracies(users: Users, basis: Tensor, weights: Any) -> Any:
    return np.array([evaluate_model(user_pairs, basis, w) for user_pairs, w in zip(users, weights, strict=True)])


def _grid(
    K_list: Sequence[int], alpha_list: Sequence[float], parts: Sequence[Users],
    solved: Callable[..., Solution], rate: float,
) -> tuple[Any, ...]:  # fmt: skip
    """Means over users in the four settings, and a quarter of their standard deviations; alpha outer, K inner."""
    rows = []
    for alpha, rank in itertools.product(alpha_list, K_list):
        weights, basis = solved(alpha, rank)
        part_weights = (weights, weights, *[_few_shot(parts[2], basis, rank, rate)] * 2)
        accuracies = [
            _accuracies(part, basis, user_weights) for part, user_weights in zip(parts, part_weights, strict=True)
        ]
        rows.append([part.mean() for part in accuracies] + [_STD_FACTOR * part.std() for part in accuracies])
    return tuple(np.array(rows).T)


def run(
    K_list: Sequence[int], alpha_list: Sequence[float], V_final: Tensor, train: Users, test: Users,
    train_unseen: Users, test_unseen: Users, N: int, N_unseen: int, device: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Eight arrays over the grid: accuracies on the four parts in their order, a quarter of their spread over users.

    1,000 steps at learning rate 0.5, and 500 at 0.1 for unseen users.
    """
    parts = _moved(device, N, N_unseen, train, test, train_unseen, test_unseen)

    def solved(alpha: float, rank: int) -> Solution:
        return _basis(solve_regularized, V_final.to(device), alpha, parts[0], rank, 1_000)

    return _grid(K_list, alpha_list, parts, solved, 0.1)


def run_regularized(
    K_list: Sequence[int], alpha_list: Sequence[float], V_final: Tensor, train: Users, test: Users,
    train_unseen: Users, test_unseen: Users, N: int, N_unseen: int, device: Any, folder: str | Path = "checkpoints",
) -> tuple[Any, ...]:  # fmt: skip
    """`run` with `LoRe_regularized`, 20,000 steps, and 0.5 for unseen users; V and W of each point go into `folder`."""
    parts = _moved(device, N, N_unseen, train, test, train_unseen, test_unseen)

    def solved(alpha: float, rank: int) -> Solution:
        steps = _REGULARIZED_STEPS
        weights, basis = _basis(solve_regularized_simplex, V_final.to(device), alpha, parts[0], rank, steps)
        with replacing(Path(folder) / f"rank-{rank}-alpha-{alpha:g}.safetensors") as beside:
            save_file({"V": basis.cpu().contiguous(), "W": weights.cpu().contiguous()}, beside)
        return weights, basis

    return _grid(K_list, alpha_list, parts, solved, 0.5)


def run_few_shot_vary_shots(
    trials: int, alpha_list: Sequence[float], K_list: Sequence[int], num_shots: Sequence[int], train: Users,
    train_unseen: Users, test_unseen: Users, V_final: Tensor, N: int, N_unseen: int, device: Any,
) -> tuple[list[float], ...]:  # fmt: skip
    """Unseen users: mean and spread over trials on their shots, then on test pairs; shots, K, alpha from the inside."""
    train, train_unseen, test_unseen = _moved(device, N, N_unseen, train, train_unseen, test_unseen)
    rows = []
    for alpha, rank in itertools.product(alpha_list, K_list):
        _, basis = _basis(solve_regularized, V_final.to(device), alpha, train, rank, 500)
        for shots in num_shots:
            accuracies = []
            for _ in range(trials):
                few = sample_shots(train_unseen, shots)
                weights = _few_shot(few, basis, rank, 0.1)
                accuracies.append([_accuracies(part, basis, weights).mean() for part in (few, test_unseen)])
            means, spreads = np.mean(accuracies, axis=0), np.std(accuracies, axis=0)
            rows.append([means[0], spreads[0], means[1], spreads[1]])
    return tuple(list(column) for column in np.array(rows).T)
