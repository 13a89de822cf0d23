"""The routes, three groups of them: what keeps a server running, what ranks, and what is known of users."""

import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse

from lore.data.messages import as_json, as_messages, text_of, without_prompt
from lore.embedding.tokens import Conversation
from lore.serve.access import Access, Caller
from lore.serve.erasure import erase_from_run
from lore.serve.explain import describe_directions
from lore.serve.metrics import SPAN, Metrics, Span
from lore.serve.monitoring import PrequentialAccuracy, PrequentialEvaluation, compare_models, recent
from lore.serve.schemas import (
    AccuracySpan,
    Choice,
    Document,
    EraseAnswer,
    ExportAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    Load,
    MapPoint,
    ModelsAnswer,
    ModelSummary,
    Name,
    OverviewAnswer,
    PathName,
    QuestionAnswer,
    QuestionRequest,
    RerankAnswer,
    RerankRequest,
    RerankResult,
    RewardAnswer,
    RewardRequest,
    ScoreAnswer,
    ScoreRequest,
    UserAnswer,
    conversations_of,
    messages_of,
    relevance,
)
from lore.serve.service import NextQuestion, ScoredCandidates, Service
from lore.serve.store.events import Event

User = Annotated[PathName, PathParameter(description="the user's id")]


def ops_routes(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """Is it alive, is it ready, what has it counted, what can it do; and its page."""
    router = APIRouter(tags=["operations"])
    read_scope, admin = Depends(access.allowed("read")), Depends(access.allowed("admin"))

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez")
    async def live() -> dict[str, str]:  # needs no thread, so that it answers when all are at work
        """Return ok if the server answers."""
        return {"status": "ok"}

    @router.get("/readyz", dependencies=[read_scope])
    def ready() -> dict[str, str]:
        """Return ready if the database answers."""
        return {"status": "ready", "model_version": service.models.of(service.store.models.served()).version}

    @router.get(
        "/metrics", dependencies=[admin], response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )
    def counted() -> Response:
        """Counters, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/openapi.json", dependencies=[read_scope], include_in_schema=False)
    def described(request: Request) -> Any:
        return request.app.openapi()

    @router.get("/", dependencies=[read_scope], response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    return router


def admin_routes(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """Build the routes of an operator: how the models do, who is served, how much there is to do."""
    router = APIRouter(tags=["operations"], prefix="/v1")
    admin = Depends(access.allowed("admin"))

    @router.get("/models")
    def models(caller: Caller = admin) -> ModelsAnswer:
        """Return the models that are served, and how they did beside the one that answers."""
        return ModelsAnswer(models=_model_summaries(service, caller.tenant))

    @router.get("/overview")
    def overview(caller: Caller = admin) -> OverviewAnswer:
        """Users on a map, accuracy over time, load and models; no user is named."""
        store, served = service.store, service.models.of(service.store.models.served())
        users, comparisons = store.events.counts(caller.tenant)
        user_events = recent(store, caller.tenant, 0)
        since = next(model.since for model in store.models.all() if model.version == served.version)
        seen = PrequentialEvaluation(user_events, service.table) if user_events else None
        places = seen.map(served.basis).tolist() if seen else []
        return OverviewAnswer(
            users=users,
            comparisons=comparisons,
            map=[
                MapPoint(x=x, y=y, comparisons=len(events)) for (x, y), events in zip(places, user_events, strict=True)
            ],
            accuracy=[_span(accuracy) for accuracy in (seen.over_time(served.basis, since) if seen else [])],
            seconds=SPAN,
            load=[_load(span) for span in metrics.load()],
            models=_model_summaries(service, caller.tenant),
        )

    return router


def ranking_routes(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """Rewards and orders of responses."""
    router = APIRouter(tags=["rewards"])
    read_scope = Depends(access.allowed("read"))

    def scored(
        caller: Caller,
        user: str | None,
        conversations: Sequence[Conversation],
        min_version: int = 0,
        model: str | None = None,
    ) -> ScoredCandidates:
        result = service.rerank(caller.tenant, user, conversations, min_version, model)
        metrics.reranked.labels(str(result.ranked.personalized).lower()).inc()
        return result

    @router.post("/v1/rerank")
    @router.post("/v2/rerank")
    def rerank(request: RerankRequest, caller: Caller = read_scope) -> RerankAnswer:
        """Order responses for a user, or without one for the population."""
        conversations = conversations_of(request.query, request.documents)
        result = scored(caller, request.user, conversations, request.min_version, request.model_version)
        return _reranked(request, result)

    @router.post("/v1/score")
    def score(request: ScoreRequest, caller: Caller = read_scope) -> ScoreAnswer:
        """Rewards of responses to one prompt."""
        conversations = conversations_of(request.prompt, request.responses)
        result = scored(caller, request.user, conversations, request.min_version, request.model_version)
        return ScoreAnswer(
            rewards=result.ranked.rewards,
            truncated=result.truncated,
            user=request.user,
            personalized=result.ranked.personalized,
            weights_version=result.state.version,
            model_version=result.state.served.version,
        )

    @router.post("/get_reward")
    def get_reward(request: RewardRequest, caller: Caller = read_scope) -> RewardAnswer:
        """OpenRLHF's remote reward model: a label that is a text is the user's id."""
        requested: list[tuple[str | None, Conversation]] = []
        for index, text in enumerate(request.query):
            prompt = request.prompts[index] if index < len(request.prompts) else ""
            label = request.labels[index] if index < len(request.labels) else None
            response = text[len(prompt) :] if prompt and text.startswith(prompt) else text
            user = label if isinstance(label, str) and label else None
            requested += [(user, conversation) for conversation in conversations_of(prompt, [response])]
        service.vectors.of([conversation for _, conversation in requested])  # all at once; below they are remembered
        return RewardAnswer(
            rewards=[scored(caller, user, [conversation]).ranked.rewards[0] for user, conversation in requested]
        )

    return router


def user_routes(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """Build the routes of users: their choices, their state, questions to them, and their erasure."""
    router = APIRouter(prefix="/v1/users/{user}", tags=["users"])
    read_scope, erase_scope = Depends(access.allowed("read")), Depends(access.allowed("erase"))
    feedback_scope = Depends(access.allowed("feedback"))

    @router.post("/feedback")
    def feedback(
        user: User,
        request: FeedbackRequest,
        idempotency_key: Annotated[Name | None, Header()] = None,
        caller: Caller = feedback_scope,
    ) -> FeedbackAnswer:
        """Learn from choices; answered when they are on disk. With an `Idempotency-Key` ids follow from it."""
        events = [_event(user, choice, idempotency_key, index) for index, choice in enumerate(request.comparisons)]
        if idempotency_key is not None:
            service.check_idempotency_key(caller.tenant, idempotency_key, events)
        version = service.feedback(caller.tenant, events)
        metrics.events.inc(len(events))
        return FeedbackAnswer(user=user, accepted=len(events), weights_version=version)

    @router.get("")
    def describe(user: User, caller: Caller = read_scope) -> UserAnswer:
        """Return the state of a user, and what they like in the run's own words."""
        state = service.user_state(caller.tenant, user)
        basis, covariance = state.served.basis, state.covariance
        return UserAnswer(
            user=user,
            personalized=state.user_weights is not None,
            comparisons=state.events,
            weights_version=state.version,
            model_version=state.served.version,
            family=basis.family,
            weights=state.weights.tolist(),
            population=basis.population.tolist(),
            standard_deviations=None if covariance is None else covariance.diagonal().sqrt().tolist(),
            likes=describe_directions(service.pool, state) if state.user_weights is not None else [],
        )

    @router.delete("")
    def erase(user: User, caller: Caller = erase_scope) -> EraseAnswer:
        """Remove a user from the database and the run; nothing of theirs is accepted after."""
        receipt = service.erase(caller.tenant, user)
        in_run = erase_from_run(service, caller.tenant, user)
        service.overwrite()
        return EraseAnswer(receipt=receipt.receipt, events=receipt.events, vectors=receipt.vectors, run=in_run)

    @router.get("/export")
    def export(user: User, caller: Caller = read_scope) -> ExportAnswer:
        """All that is kept of a user: rows that `lore train` reads."""
        events = service.store.events.of_user(caller.tenant, user)
        return ExportAnswer(user=user, comparisons=[_exported(event) for event in events])

    @router.get("/next")
    def next_of_run(user: User, caller: Caller = read_scope) -> QuestionAnswer:
        """Return what to ask a user next, among the run's own responses."""
        return _question(service.next_question(caller.tenant, user))

    @router.post("/next")
    def next_of(user: User, request: QuestionRequest, caller: Caller = read_scope) -> QuestionAnswer:
        """Return what to ask a user next, among the responses of the request."""
        pool = conversations_of(request.prompt, request.candidates)
        return _question(service.next_question(caller.tenant, user, pool))

    return router


def _reranked(request: RerankRequest, result: ScoredCandidates) -> RerankAnswer:
    ranked = result.ranked
    scores = relevance(ranked.rewards)
    results = []
    for row in ranked.to_json()["results"][: request.top_n]:
        index = row["index"]
        document = {"text": _shown(request.documents[index])} if request.return_documents else None
        results.append(
            RerankResult(**row, relevance_score=scores[index], truncated=result.truncated[index], document=document)
        )
    return RerankAnswer(
        id=str(uuid.uuid4()),
        results=results,
        user=request.user,
        personalized=ranked.personalized,
        weights_version=result.state.version,
        model_version=result.state.served.version,
        meta={"api_version": {"version": "2"}},
    )


def _model_summaries(service: Service, tenant: str) -> list[ModelSummary]:
    comparisons = compare_models(service.store, service.models, tenant, service.table)
    return [ModelSummary(**one.to_json()) for one in comparisons]


def _span(measured: PrequentialAccuracy) -> AccuracySpan:
    personal = measured.personal
    sure = math.isfinite(personal.low)
    return AccuracySpan(
        until=measured.until,
        comparisons=personal.pairs,
        personal=personal.mean,
        low=personal.low if sure else None,
        high=personal.high if sure else None,
        population=measured.common.mean,
    )


def _load(span: Span) -> Load:
    return Load(
        start=span.start,
        requests=span.requests,
        refused=span.refused,
        mean_milliseconds=1e3 * span.seconds / span.requests,
        slowest_milliseconds=1e3 * span.slowest,
    )


def _shown(document: Any) -> str:
    if isinstance(document, Document):
        return document.text
    return document if isinstance(document, str) else text_of(messages_of(document, "assistant"))


def _event(user: str, choice: Choice, key: str | None, index: int) -> Event:
    sides = [messages_of(side, "assistant") for side in (choice.chosen, choice.rejected)]
    shared, answers = without_prompt(messages_of(choice.prompt, "user"), sides)
    prompt = as_messages(shared, "user")
    chosen, rejected = ((prompt, as_messages(answer, "assistant")) for answer in answers)
    event_id = choice.event_id if key is None or "event_id" in choice.model_fields_set else f"{key}:{index}"
    return Event(event_id, user, chosen, rejected, choice.weight, choice.label)


def _exported(event: Event) -> dict[str, Any]:
    (prompt, chosen), (other, rejected) = event.chosen, event.rejected
    row = {
        "user_id": event.user,
        "comparison_id": event.event_id,
        "prompt": as_json(prompt),
        "chosen": as_json(chosen),
        "rejected": as_json(rejected),
        "weight": event.weight,
        "label": event.label,
    }
    # Items that were rated may answer different prompts: then nothing is left out, though no file format holds both.
    return row if other == prompt else {**row, "rejected_prompt": as_json(other)}


def _question(next_question: NextQuestion) -> QuestionAnswer:
    first, second = next_question.sides
    return QuestionAnswer(
        prompts=[text_of(first[0]), text_of(second[0])],
        responses=[text_of(first[1]), text_of(second[1])],
        information=next_question.question.information,
        gain=next_question.question.gain,
        stop=next_question.question.stop,
        left=next_question.left,
    )
