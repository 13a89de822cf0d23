"""Schemas of requests and answers; what does not fit is refused before anything is done."""

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import unquote
from uuid import uuid4

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from lore.data.formats.rows import MAX_CHARACTERS
from lore.data.messages import ROLES, MessageFault, Messages, as_json, conversation_of, parse_messages

_MAX_DOCUMENTS = 1_000
_MAX_MESSAGES = 1_000
_SPELLINGS = frozenset({"tool_calls", "function_call", "tool_call_id", "name", "from"})  # keys of messages elsewhere


def _storable(text: str) -> str:
    """Return a text that can be stored and sent again."""
    if "\0" in text:
        raise ValueError("must not hold a NUL character")
    if any(0xD800 <= ord(character) <= 0xDFFF for character in text):
        raise ValueError("must not hold half of a surrogate pair")
    return text


def _role(role: str) -> str:
    if role not in ROLES:
        raise ValueError(f"must be one of {', '.join(sorted(ROLES))}")
    return role


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_storable)]
Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_storable)]
# In a path a slash stays encoded until the route is found (`lore.serve.limits`).
PathName = Annotated[Name, BeforeValidator(lambda text: unquote(text) if isinstance(text, str) else text)]


def _label(label: Any) -> Any:
    if isinstance(label, str) and label:
        if len(label) > 256:
            raise ValueError("a user id must be of 256 characters at most")
        return _storable(label)
    return label


Two = Annotated[list[str], Field(min_length=2, max_length=2)]


class Strict(BaseModel):
    """A request; an unknown field is refused."""

    model_config = ConfigDict(extra="forbid")


class ChatMessage(Strict):
    """One message of a chat."""

    role: Annotated[str, AfterValidator(_role)]
    content: Text


def _parsed(content: Any) -> Any:
    """Return a list of messages in one of their spellings as plain ones; the fields of `ChatMessage` are checked then.

    A list that is not of messages is left to the schema, whose errors name the place.
    """
    if not isinstance(content, list) or len(content) > _MAX_MESSAGES or all(map(_is_plain, content)):
        return content
    try:
        return as_json(parse_messages("messages", content, "user", _text))
    except MessageFault as fault:
        raise ValueError(f"{fault.kind}; {fault.remedy}") from None


def _is_plain(message: Any) -> bool:
    if not isinstance(message, dict):
        return True
    return not isinstance(message.get("content"), list) and not _SPELLINGS & message.keys()


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MessageFault(f"`{name}` must hold texts", "write the text itself")
    return value


MessageContent = Annotated[
    Text | Annotated[list[ChatMessage], Field(min_length=1, max_length=_MAX_MESSAGES)], BeforeValidator(_parsed)
]


class Document(BaseModel):
    """A response, as Cohere and Jina wrap it."""

    text: Text


def messages_of(content: Any, role: str) -> Messages:
    """Return a text as one message of `role`, or chat messages; an empty text is none."""
    if isinstance(content, Document):
        content = content.text
    if isinstance(content, str):
        return ((role, content),) if content else ()
    return tuple((message.role, message.content) for message in content)


def conversations_of(prompt: Any, responses: Sequence[Any]) -> list[tuple[Messages, Messages]]:
    """Return a prompt with each response to it; one that begins with the prompt does not repeat it."""
    request = messages_of(prompt, "user")
    return [conversation_of(request, messages_of(response, "assistant")) for response in responses]


class RerankRequest(BaseModel):
    """Candidates to order, in the shape of Cohere's and Jina's rerank endpoints, with the user whom it is for."""

    query: MessageContent = Field(default="", description="prompt, a text or chat messages")
    documents: list[MessageContent | Document] = Field(
        min_length=1, max_length=_MAX_DOCUMENTS, description="responses to it"
    )
    user: Name | None = Field(default=None, description="whose order is asked for; the population's by default")
    top_n: Annotated[int, Field(ge=1)] | None = Field(default=None, description="how many are returned; all by default")
    return_documents: bool = Field(default=False, description="whether documents are returned")
    min_version: Annotated[int, Field(ge=0)] = Field(default=0, description="weights at least as new as this")
    model: str | None = Field(default=None, description="taken for other services' clients, and not read")
    model_version: Name | None = Field(default=None, description="one of `/v1/models`; the one in service by default")


class RerankResult(BaseModel):
    """One candidate; `relevance_score` is `sigmoid(reward - mean reward of the candidates)`."""

    index: int
    relevance_score: float
    reward: float
    truncated: bool
    low: float | None = None
    high: float | None = None
    probability_best: float | None = None
    document: dict[str, str] | None = None


class RerankAnswer(BaseModel):
    """Candidates in order, best first."""

    id: str
    results: list[RerankResult]
    user: str | None
    personalized: bool
    weights_version: int
    model_version: str
    meta: dict[str, Any]


class ScoreRequest(Strict):
    """Responses to one prompt, to be scored for a user."""

    prompt: MessageContent = ""
    responses: list[MessageContent] = Field(min_length=1, max_length=_MAX_DOCUMENTS)
    user: Name | None = None
    min_version: Annotated[int, Field(ge=0)] = 0
    model_version: Name | None = None


class ScoreAnswer(BaseModel):
    """A reward for each response, in order; comparable between responses to one prompt for one user only."""

    rewards: list[float]
    truncated: list[bool]
    user: str | None
    personalized: bool
    weights_version: int
    model_version: str


class Choice(Strict):
    """One choice; the same `event_id` sent again is answered the same and not counted again."""

    prompt: MessageContent = ""
    chosen: MessageContent
    rejected: MessageContent
    event_id: Name = Field(default_factory=lambda: uuid4().hex)
    weight: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 1.0
    label: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 1.0


class FeedbackRequest(Strict):
    """Choices of one user, which are committed together or not at all."""

    comparisons: list[Choice] = Field(min_length=1, max_length=1_000)


class FeedbackAnswer(BaseModel):
    """The choices are on disk; weights of this version have learned from them."""

    user: str
    accepted: int
    weights_version: int


class UserAnswer(BaseModel):
    """The state of a user."""

    user: str
    personalized: bool
    comparisons: int
    weights_version: int
    model_version: str
    family: Literal["simplex", "gaussian"]
    weights: list[float]
    population: list[float]
    standard_deviations: list[float] | None
    likes: list["DirectionExamples"]


class DirectionExamples(BaseModel):
    """A direction in which a user differs from the population, and the run's responses furthest along it."""

    direction: int
    strength: float
    more: list[str]
    less: list[str]


class ExportAnswer(BaseModel):
    """All that is kept of a user, before they are erased."""

    user: str
    comparisons: list[dict[str, Any]]


class EraseAnswer(BaseModel):
    """A receipt of what was removed; nothing of this user is accepted any more."""

    receipt: str
    events: int
    vectors: int
    run: bool


class QuestionRequest(Strict):
    """Responses to choose a question from."""

    prompt: MessageContent = ""
    candidates: list[MessageContent] = Field(min_length=2, max_length=200)


class QuestionAnswer(BaseModel):
    """The comparison that is expected to teach most."""

    prompts: Two
    responses: Two
    information: float
    gain: float
    stop: bool
    left: int = Field(description="questions that are worth asking from here on, this one among them; 20 at most")


class RewardRequest(BaseModel):
    """OpenRLHF's: whole conversations as texts, and the prompts that they begin with."""

    query: list[Text] = Field(min_length=1, max_length=_MAX_DOCUMENTS)
    prompts: list[Text] = Field(default_factory=list)
    labels: list[Annotated[Any, AfterValidator(_label)]] = Field(
        default_factory=list, description="user ids, where they are texts"
    )


class RewardAnswer(BaseModel):
    """A reward for each text."""

    rewards: list[float]


class ModelGain(BaseModel):
    """Accuracy less that of the model that answers; no interval from fewer than five users."""

    mean: float
    low: float | None
    high: float | None


class ModelSummary(BaseModel):
    """A model that is served, and how it did on choices made after both it and the one that answers were there."""

    version: str
    serving: bool
    added: str
    family: Literal["simplex", "gaussian"]
    rank: int
    gain: ModelGain | None
    users: int


class ModelsAnswer(BaseModel):
    """The models of this server."""

    models: list[ModelSummary]


class MapPoint(BaseModel):
    """A user on the plane along which tastes differ most; no user is named."""

    x: float
    y: float
    comparisons: int


class AccuracySpan(BaseModel):
    """The accuracy of predicting the choices of a span of time from those before it."""

    until: float
    comparisons: int
    personal: float
    low: float | None
    high: float | None
    population: float


class Load(BaseModel):
    """Requests answered within some seconds."""

    start: float
    requests: int
    refused: int
    mean_milliseconds: float
    slowest_milliseconds: float


class OverviewAnswer(BaseModel):
    """The numbers that an operator looks at."""

    users: int
    comparisons: int
    map: list[MapPoint]
    accuracy: list[AccuracySpan]
    seconds: float = Field(description="of one entry of `load`")
    load: list[Load]
    models: list[ModelSummary]


class Problem(BaseModel):
    """Why something was refused, and what to do."""

    detail: Any


def relevance(rewards: list[float]) -> list[float]:
    """Rewards as numbers between 0 and 1 in the same order."""
    mean = math.fsum(rewards) / len(rewards)
    return [1 / (1 + math.exp(-max(min(reward - mean, 500.0), -500.0))) for reward in rewards]
