"""The routes, three groups of them: what keeps a server running, what ranks, and what is known of people."""

import math
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import HTMLResponse

from lore.embedding.tokens import Conversation
from lore.preferences import Turns, as_json, text_of
from lore.serve.access import Access, Caller
from lore.serve.erasure import erase_from_run
from lore.serve.hindsight import Foretold, Hindsight, recent, standings
from lore.serve.metrics import SPAN, Metrics, Span
from lore.serve.schemas import (
    AccuracySpan,
    Choice,
    Document,
    EraseAnswer,
    ExportAnswer,
    FeedbackAnswer,
    FeedbackRequest,
    Load,
    ModelsAnswer,
    ModelStanding,
    Name,
    OverviewAnswer,
    PathName,
    Place,
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
    relevance,
    turns_of,
)
from lore.serve.service import Asked, Scored, Service
from lore.serve.tastes import likes
from lore.users import Event

User = Annotated[PathName, PathParameter(description="the person's id")]


def operating(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """Is it alive, is it ready, what has it counted, what can it do; and its page."""
    router = APIRouter(tags=["operations"])
    reader, admin = Depends(access.allowed("read")), Depends(access.allowed("admin"))

    @router.head("/livez", include_in_schema=False)
    @router.get("/livez")
    async def live() -> dict[str, str]:  # needs no thread, so that it answers when all are at work
        """Whether the server answers."""
        return {"status": "ok"}

    @router.get("/readyz", dependencies=[reader])
    def ready() -> dict[str, str]:
        """Whether it can do its work: the database answers."""
        return {"status": "ready", "model_version": service.models.of(service.store.served()).version}

    @router.get(
        "/metrics", dependencies=[admin], response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )
    def counted() -> Response:
        """Counters, for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @router.get("/openapi.json", dependencies=[reader], include_in_schema=False)
    def described(request: Request) -> Any:
        return request.app.openapi()

    @router.get("/", dependencies=[reader], response_class=HTMLResponse, include_in_schema=False)
    def page() -> str:
        return (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    return router


def steering(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """What an operator asks: how the models do, who is served, how much there is to do."""
    router = APIRouter(tags=["operations"], prefix="/v1")
    admin = Depends(access.allowed("admin"))

    @router.get("/models")
    def models(caller: Caller = admin) -> ModelsAnswer:
        """The models that are served, and how they did beside the one that answers."""
        return ModelsAnswer(models=_standings(service, caller.tenant))

    @router.get("/overview")
    def overview(caller: Caller = admin) -> OverviewAnswer:
        """People on a map, accuracy over time, load and models; nobody is named."""
        store, served = service.store, service.models.of(service.store.served())
        people, comparisons = store.counts(caller.tenant)
        known = recent(store, caller.tenant, 0)
        since = next(model.since for model in store.models() if model.version == served.version)
        seen = Hindsight(known, service.table) if known else None
        places = seen.map(served.basis).tolist() if seen else []
        return OverviewAnswer(
            people=people,
            comparisons=comparisons,
            map=[Place(x=x, y=y, comparisons=len(own)) for (x, y), own in zip(places, known, strict=True)],
            accuracy=[_span(found) for found in (seen.over_time(served.basis, since) if seen else [])],
            seconds=SPAN,
            load=[_load(span) for span in metrics.load()],
            models=_standings(service, caller.tenant),
        )

    return router


def ranking(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """Rewards and orders of responses."""
    router = APIRouter(tags=["rewards"])
    reader = Depends(access.allowed("read"))

    def scored(
        caller: Caller,
        user: str | None,
        said: Sequence[Conversation],
        min_version: int = 0,
        model: str | None = None,
    ) -> Scored:
        found = service.rerank(caller.tenant, user, said, min_version, model)
        metrics.reranked.labels(str(found.ranked.personalized).lower()).inc()
        return found

    @router.post("/v1/rerank")
    @router.post("/v2/rerank")
    def rerank(request: RerankRequest, caller: Caller = reader) -> RerankAnswer:
        """Order responses for a person, or without one for the population."""
        prompt = turns_of(request.query, "user")
        said = [(prompt, turns_of(document, "assistant")) for document in request.documents]
        found = scored(caller, request.user, said, request.min_version, request.model_version)
        return _reranked(request, found)

    @router.post("/v1/score")
    def score(request: ScoreRequest, caller: Caller = reader) -> ScoreAnswer:
        """Rewards of responses to one prompt."""
        prompt = turns_of(request.prompt, "user")
        said = [(prompt, turns_of(response, "assistant")) for response in request.responses]
        found = scored(caller, request.user, said, request.min_version, request.model_version)
        return ScoreAnswer(
            rewards=found.ranked.rewards,
            truncated=found.truncated,
            user=request.user,
            personalized=found.ranked.personalized,
            weights_version=found.person.version,
            model_version=found.person.served.version,
        )

    @router.post("/get_reward")
    def get_reward(request: RewardRequest, caller: Caller = reader) -> RewardAnswer:
        """OpenRLHF's remote reward model: a label that is a text is the user's id."""
        asked: list[tuple[str | None, Conversation]] = []
        for at, text in enumerate(request.query):
            prompt = request.prompts[at] if at < len(request.prompts) else ""
            label = request.labels[at] if at < len(request.labels) else None
            response = text[len(prompt) :] if prompt and text.startswith(prompt) else text
            user = label if isinstance(label, str) and label else None
            asked.append((user, (turns_of(prompt, "user"), turns_of(response, "assistant"))))
        service.vectors.of([said for _, said in asked])  # all at once; below they are remembered
        return RewardAnswer(rewards=[scored(caller, user, [said]).ranked.rewards[0] for user, said in asked])

    return router


def people(service: Service, access: Access, metrics: Metrics) -> APIRouter:
    """What people choose, what is known of them, what to ask them, and how they are forgotten."""
    router = APIRouter(prefix="/v1/users/{user}", tags=["people"])
    reader, eraser = Depends(access.allowed("read")), Depends(access.allowed("erase"))
    teller = Depends(access.allowed("feedback"))

    @router.post("/feedback")
    def feedback(
        user: User,
        request: FeedbackRequest,
        idempotency_key: Annotated[Name | None, Header()] = None,
        caller: Caller = teller,
    ) -> FeedbackAnswer:
        """Learn from choices; answered when they are on disk. With an `Idempotency-Key` ids follow from it."""
        events = [_event(user, choice, idempotency_key, at) for at, choice in enumerate(request.comparisons)]
        if idempotency_key is not None:
            service.keyed(caller.tenant, idempotency_key, events)
        version = service.feedback(caller.tenant, events)
        metrics.events.inc(len(events))
        return FeedbackAnswer(user=user, accepted=len(events), weights_version=version)

    @router.get("")
    def describe(user: User, caller: Caller = reader) -> UserAnswer:
        """What is known of a person, and what they like in the run's own words."""
        person = service.person(caller.tenant, user)
        basis, covariance = person.served.basis, person.covariance
        return UserAnswer(
            user=user,
            personalized=person.people is not None,
            comparisons=person.events,
            weights_version=person.version,
            model_version=person.served.version,
            family=basis.family,
            weights=person.weights.tolist(),
            standard_deviations=None if covariance is None else covariance.diagonal().sqrt().tolist(),
            likes=likes(service.pool, person) if person.people is not None else [],
        )

    @router.delete("")
    def erase(user: User, caller: Caller = eraser) -> EraseAnswer:
        """Remove a person from the database and the run; nothing of theirs is accepted after."""
        receipt = service.erase(caller.tenant, user)
        in_run = erase_from_run(service, caller.tenant, user)
        service.overwrite()
        return EraseAnswer(receipt=receipt.receipt, events=receipt.events, vectors=receipt.vectors, run=in_run)

    @router.get("/export")
    def export(user: User, caller: Caller = reader) -> ExportAnswer:
        """All that is kept of a person: rows that `lore train` reads."""
        events = service.store.events(caller.tenant, user)
        return ExportAnswer(user=user, comparisons=[_exported(event) for event in events])

    @router.get("/next")
    def next_of_run(user: User, caller: Caller = reader) -> QuestionAnswer:
        """What to ask a person next, among the run's own responses."""
        return _question(service.next_question(caller.tenant, user))

    @router.post("/next")
    def next_of(user: User, request: QuestionRequest, caller: Caller = reader) -> QuestionAnswer:
        """What to ask a person next, among responses that are given."""
        prompt = turns_of(request.prompt, "user")
        pool = [(prompt, turns_of(candidate, "assistant")) for candidate in request.candidates]
        return _question(service.next_question(caller.tenant, user, pool))

    return router


def _reranked(request: RerankRequest, found: Scored) -> RerankAnswer:
    ranked = found.ranked
    scores = relevance(ranked.rewards)
    results = []
    for row in ranked.to_json()["results"][: request.top_n]:
        at = row["index"]
        document = {"text": _shown(request.documents[at])} if request.return_documents else None
        results.append(
            RerankResult(**row, relevance_score=scores[at], truncated=found.truncated[at], document=document)
        )
    return RerankAnswer(
        id=str(uuid.uuid4()),
        results=results,
        user=request.user,
        personalized=ranked.personalized,
        weights_version=found.person.version,
        model_version=found.person.served.version,
        meta={"api_version": {"version": "2"}},
    )


def _standings(service: Service, tenant: str) -> list[ModelStanding]:
    found = standings(service.store, service.models, tenant, service.table)
    return [ModelStanding(**one.to_json()) for one in found]


def _span(found: Foretold) -> AccuracySpan:
    personal = found.personal
    sure = math.isfinite(personal.low)
    return AccuracySpan(
        until=found.until,
        comparisons=personal.pairs,
        personal=personal.mean,
        low=personal.low if sure else None,
        high=personal.high if sure else None,
        population=found.common.mean,
    )


def _load(span: Span) -> Load:
    return Load(
        at=span.at,
        requests=span.requests,
        refused=span.refused,
        mean_milliseconds=1e3 * span.seconds / span.requests,
        slowest_milliseconds=1e3 * span.slowest,
    )


def _shown(document: Any) -> str:
    if isinstance(document, Document):
        return document.text
    return document if isinstance(document, str) else text_of(turns_of(document, "assistant"))


def _event(user: str, choice: Choice, key: str | None, at: int) -> Event:
    prompt: Turns = turns_of(choice.prompt, "user")
    chosen, rejected = ((prompt, turns_of(side, "assistant")) for side in (choice.chosen, choice.rejected))
    event_id = choice.event_id if key is None or "event_id" in choice.model_fields_set else f"{key}:{at}"
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


def _question(asked: Asked) -> QuestionAnswer:
    first, second = asked.sides
    return QuestionAnswer(
        prompts=[text_of(first[0]), text_of(second[0])],
        responses=[text_of(first[1]), text_of(second[1])],
        information=asked.question.information,
        gain=asked.question.gain,
        stop=asked.question.stop,
        left=asked.left,
    )
