"""The server without HTTP: rewards for users, and weights that follow their choices."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from lore.data.formats import load
from lore.data.preferences import Preferences
from lore.embedding import Embeddings, Encoder
from lore.embedding.tokens import Conversation
from lore.errors import DataError, LoreError
from lore.fitting.active import Question, next_comparisons
from lore.fitting.personalize import UserWeights, fit_weights
from lore.pairs.table import Pairs
from lore.runs.artifacts import Run
from lore.runs.data import comparisons_of_run
from lore.runs.folder import RunFolder
from lore.runs.rewards import Reranked, require_encoder, reranked
from lore.serve.admission import Released
from lore.serve.learning import pairs_of_events
from lore.serve.pool import Pool
from lore.serve.registry import LoadedModel, ModelRegistry
from lore.serve.store.events import Batch, Conflict, Erased, Event, Receipt
from lore.serve.store.store import UserStore
from lore.serve.vectors import Vectors, as_bytes, stored_vectors
from lore.serve.writer import Writer

TENANT = "default"  # of the run's own users, and of all users where there are no tokens
_REMEMBERED = 10_000  # users whose weights are held in memory
_AHEAD = 20  # questions that are looked ahead
_IMPORTED = 5_000  # of the run's events in one transaction


class ConflictError(LoreError):
    """The request contradicts what is known."""


class ErasedError(LoreError):
    """The user was erased."""


class NotYetError(LoreError):
    """A version that this server does not have yet."""


@dataclass(frozen=True)
class UserState:
    """The weights of one user under one model, and what they are from.

    Attributes:
        served: the model.
        version: number of their last event; 0 without any.
        events: how many there are.
        compared: keys of both conversations of each comparison.
        user_weights: the weights `[1, columns]` and the pairs they are from; None for an unknown user.
        covariance: of the weights, `[columns, columns]` (gaussian family).
    """

    served: LoadedModel
    version: int
    events: int
    compared: list[tuple[bytes, bytes]]
    user_weights: UserWeights | None
    covariance: Tensor | None

    @property
    def weights(self) -> Tensor:
        """`[columns]`; the population's for an unknown user."""
        return self.served.basis.population if self.user_weights is None else self.user_weights.weights[0]


@dataclass(frozen=True)
class ScoredCandidates:
    """Ranked candidates, which of them the encoder truncated, and the state of the user that ranked them."""

    ranked: Reranked
    truncated: list[bool]
    state: UserState


@dataclass(frozen=True)
class NextQuestion:
    """A question to ask now.

    Attributes:
        question: its rows, information and expected gain.
        sides: the two conversations.
        left: questions that are worth asking from here on, this one among them; 20 at most.
    """

    question: Question
    sides: tuple[Conversation, Conversation]
    left: int


class Service:
    """A run, its encoder, and the store of what users chose."""

    def __init__(self, run: Run, encoder: Encoder, store: UserStore, released: Released = nullcontext) -> None:
        """Take a store into service; a new one begins with the run's own comparisons.

        Args:
            run: whose model is served.
            encoder: of the run.
            store: of what users chose.
            released: entered while a request waits for the encoder or the disk.

        Raises:
            StoreError: the store holds vectors of another encoder, or is damaged.
        """
        self.run, self.store, self._released = run, store, released
        require_encoder(run, encoder)
        store.require_encoder(run.basis.encoder)
        self._folder = RunFolder(run.folder)
        self._embeddings = Embeddings.load(self._folder.embeddings)
        self.vectors = Vectors(encoder, self._stored_vectors, released)
        self._states: OrderedDict[tuple[str, str, str], UserState] = OrderedDict()
        self._lock = threading.Lock()
        self._writer = Writer(store.events, released)
        self.preferences = load(self._folder.preferences)
        self._pool: Pool | None = None
        self._import()
        self.models = ModelRegistry(store)
        self.models.begin(run.basis)

    def close(self) -> None:
        """Finish what was accepted."""
        self._writer.close()
        self.vectors.close()

    def _import(self) -> None:
        """Add the run's comparisons as events, once; interrupted, it goes on where it was, as ids do not change."""
        state = self.store.settings.get_or_set("run", self.preferences.fingerprint())
        if self.store.settings.get_or_set(f"imported {state}", "begun") == "done":
            return
        gone = {user for user in self.preferences.users if self.store.events.is_erased(TENANT, user)}
        events = (event for event in self._events_of_run() if event.user not in gone)
        while some := list(islice(events, _IMPORTED)):
            self.store.events.append([Batch(TENANT, some)])
        self.store.settings.set(f"imported {state}", "done")

    def _events_of_run(self) -> Iterator[Event]:
        source = self.store.settings.get_or_set("run", self.preferences.fingerprint())
        for number, choice in enumerate(comparisons_of_run(self.run.folder)):
            sides = [self.preferences.conversation(row) for row in (choice.chosen, choice.rejected)]
            yield Event(f"run:{source}:{number}", choice.user, sides[0], sides[1], choice.weight, choice.label)

    # --- users ---------------------------------------------------------------------------------------------------

    def user_state(self, tenant: str, user: str | None, min_version: int = 0, model: str | None = None) -> UserState:
        """Return the state of a user from all of their events, by the function that training uses.

        Args:
            tenant: whose users.
            user: the user; None for the population.
            min_version: weights at least as new as this.
            model: the version of one; the one in service by default.

        Raises:
            NotYetError: less is known than `min_version` asks for.
            ErasedError: the user was erased, so that `min_version` will never be known.
            ConfigError: there is no such model.
        """
        stored = self.store.events.state(tenant, user)
        if stored.version < min_version:
            if user is not None and self.store.events.is_erased(tenant, user):
                raise ErasedError("this user was erased; the version that is asked for will not come")
            raise NotYetError(f"version {min_version} of these weights is not known here yet; ask again")
        served = self.models.of(stored.served) if model is None else self.models.named(model)
        if user is None or stored.version == 0:
            return _population_state(served)
        key = (tenant, user, served.version)
        with self._lock:
            state = self._states.get(key)
        if state is None or state.version != stored.version:
            state = self._learned(tenant, user, served)
            with self._lock:
                self._states[key] = state
                self._states.move_to_end(key)
                while len(self._states) > _REMEMBERED:
                    self._states.popitem(last=False)
        return state

    def _learned(self, tenant: str, user: str, served: LoadedModel) -> UserState:
        events = self.store.events.of_user(tenant, user)
        if not events:
            return _population_state(served)
        solved = fit_weights(pairs_of_events([events], [user], self.table), served.basis)
        covariance = None
        if served.basis.family == "gaussian":
            covariance = solved.covariance(torch.tensor([0]))[0].double()
        return UserState(served, events[-1].number, len(events), [event.keys for event in events], solved, covariance)

    def table(self, conversations: Sequence[Conversation]) -> Tensor:
        """Vectors `[conversations, dim]`."""
        return torch.stack([vector.values for vector in self.vectors.of(conversations)])

    def _stored_vectors(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return stored_vectors(self._embeddings, self.store.vectors, keys)

    # --- requests -------------------------------------------------------------------------------------------------

    def rerank(
        self,
        tenant: str,
        user: str | None,
        conversations: Sequence[Conversation],
        min_version: int = 0,
        model: str | None = None,
    ) -> ScoredCandidates:
        """Order responses for a user; by the population for an unknown user.

        Args:
            tenant: whose users.
            user: the user; None for the population.
            conversations: prompts with responses to them.
            min_version: weights at least as new as this.
            model: the version of one; the one in service by default.

        Raises:
            DataError: there is nothing to order, or a text is too long.
            NotYetError: less is known of the user than `min_version` asks for.
        """
        if not conversations:
            raise DataError("`documents` is empty; give at least one response")
        state = self.user_state(tenant, user, min_version, model)
        vectors = self.vectors.of(conversations)
        table = torch.stack([vector.values for vector in vectors])
        basis = state.served.basis
        personalized = state.user_weights is not None and basis.has_tastes
        ranked = reranked(user, personalized, basis, table, state.weights, state.covariance)
        return ScoredCandidates(ranked, [vector.truncated for vector in vectors], state)

    def check_idempotency_key(self, tenant: str, key: str, events: Sequence[Event]) -> None:
        """Refuse an idempotency key that was used for other choices.

        Raises:
            ConflictError: the key was used for other choices.
        """
        content = json.dumps([[event.user, event.content] for event in events])
        digest = self.store.settings.digest(content)
        name = f"key {self.store.settings.digest(json.dumps([tenant, key]))}"
        if self.store.settings.get_or_set(name, digest) != digest:
            raise ConflictError("this `Idempotency-Key` was used for other choices; use a new one")

    def feedback(self, tenant: str, events: Sequence[Event]) -> int:
        """Commit choices; return the version of the weights that includes them.

        Raises:
            ConflictError: an `event_id` was used for another choice.
            ErasedError: the user was erased.
        """
        for event in events:
            if event.chosen == event.rejected:
                raise DataError("`chosen` and `rejected` are the same; a choice needs two responses")
        conversations = list(
            dict.fromkeys(conversation for event in events for conversation in (event.chosen, event.rejected))
        )
        vectors = self.vectors.of(conversations)
        keys = [key for event in events for key in event.keys]
        vector_of = dict(zip(conversations, vectors, strict=True))
        sides = [conversation for event in events for conversation in (event.chosen, event.rejected)]
        in_run = self._embeddings.find(keys).tolist()
        fresh = {
            key: as_bytes(vector_of[conversation])
            for key, conversation, row in zip(keys, sides, in_run, strict=True)
            if row < 0
        }
        outcome = self._writer.append(Batch(tenant, events), fresh)
        if isinstance(outcome, Conflict):
            raise ConflictError(f"event_id {outcome.event_id!r} was used for another choice; use a new one")
        if isinstance(outcome, Erased):
            raise ErasedError("this user was erased; nothing of theirs is accepted any more")
        return outcome.version

    def next_question(self, tenant: str, user: str, pool: Sequence[Conversation] | None = None) -> NextQuestion:
        """Return the comparison worth asking next, among responses that are given or those of the run.

        Raises:
            DataError: there are fewer than two responses to choose from.
        """
        state = self.user_state(tenant, user)
        if pool is None:
            of_run = self.pool
            return _next_question(state, of_run.vectors, of_run.unjudged(state.compared), of_run.conversation)
        if len(set(pool)) < 2:
            raise DataError("`candidates` must hold two different responses at least; give more")
        return _next_question(state, self.table(pool), torch.combinations(torch.arange(len(pool))), pool.__getitem__)

    @property
    def pool(self) -> Pool:
        """The run's own responses as they are now."""
        # The store first: `reload_run` sets the table first, and a store may hold more than its table, never less.
        embeddings, preferences = self._embeddings, self.preferences
        pool = self._pool
        if pool is None or pool.preferences is not preferences:
            self._pool = pool = Pool.of(preferences, embeddings)
        return pool

    def reload_run(self, preferences: Preferences) -> None:
        """Go on with a table from which a user was erased."""
        self.preferences = preferences
        self._embeddings = Embeddings.load(self._folder.embeddings)

    def erase(self, tenant: str, user: str) -> Receipt:
        """Remove a user from the database, and from memory."""
        events = self.store.events.of_user(tenant, user)
        receipt = self.store.events.erase(tenant, user)
        self.vectors.forget([key for event in events for key in event.keys])
        with self._lock:
            for key in [key for key in self._states if key[:2] == (tenant, user)]:
                del self._states[key]
        return receipt

    def overwrite(self) -> None:
        """Overwrite what was removed from the database, while others go on."""
        with self._released():
            self.store.vacuum()


def _population_state(served: LoadedModel) -> UserState:
    basis = served.basis
    covariance = torch.eye(basis.columns, dtype=torch.float64) if basis.family == "gaussian" else None
    return UserState(served, 0, 0, [], None, covariance)


def _next_question(
    state: UserState, table: Tensor, pairs: Tensor | None, conversation: Callable[[int], Conversation]
) -> NextQuestion:
    """Choose what to ask a user among pairs of rows of a table, whose conversations `conversation` gives."""
    questions = next_comparisons(_user_weights(state, table), state.served.basis, table, pairs, count=_AHEAD)
    worth = (index for index, question in enumerate(questions) if question.stop)
    first = questions[0]
    return NextQuestion(first, (conversation(first.first), conversation(first.second)), next(worth, len(questions)))


def _user_weights(state: UserState, table: Tensor) -> UserWeights:
    if state.user_weights is not None:
        return state.user_weights
    empty = torch.zeros(0, dtype=torch.long)
    pairs = Pairs.from_rows(table[:1], empty, empty, empty, users=["unknown user"])
    return fit_weights(pairs, state.served.basis)
