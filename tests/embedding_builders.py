from lore.embedding.tokens import Conversation


def conversation(prompt: str, response: str) -> Conversation:
    return (("user", prompt),), (("assistant", response),)


CONVERSATIONS = [
    conversation("What is two and two?", "Four."),
    conversation("What is two and two?", "It is four, as everybody knows who ever counted to it."),
    conversation("What is two and two?", ""),
    conversation("Is the sky blue, or does it only look so to us?", "The sky is blue."),
    conversation("Is the sky blue, or does it only look so to us?", "It scatters what the sun sends. " * 3),
    conversation("Hi", "Ho"),
]
