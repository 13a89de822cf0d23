"""Reddit TLDR comparisons (openai/summarize_from_feedback): a worker chooses one of two summaries of a post."""

from collections.abc import Mapping

from lore.data.builder import PreferencesBuilder
from lore.data.formats.rows import Row

_READ = frozenset({"worker", "info", "summaries", "choice"})


def parse(row: Row, builder: PreferencesBuilder) -> None:
    """Add the comparison of one row."""
    worker, choice = row.identifier("worker"), row.number("choice", None, 0, 1)
    post, summaries = row.required("info"), row.required("summaries")
    if choice not in (0, 1):
        raise row.fail("`choice` is not 0 or 1", "use the published rows")
    if not isinstance(post, Mapping) or not isinstance(summaries, list) or len(summaries) != 2:
        raise row.fail("`info` is not an object, or `summaries` not a list of two", "use the published rows")
    if not all(isinstance(summary, Mapping) for summary in summaries):
        raise row.fail("`summaries` holds something else than objects", "use the published rows")
    text = post.get("post") or post.get("article")
    prompt = (("user", row.checked_text("info.post", text)),)
    texts = [row.checked_text("summaries.text", summary.get("text")) for summary in summaries]
    rows = [builder.row(prompt, (("assistant", part),)) for part in texts]
    builder.compare(worker, rows[int(choice)], rows[1 - int(choice)], row.row_ref)
    builder.keep(row.extra(_READ))
