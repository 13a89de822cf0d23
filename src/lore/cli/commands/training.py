"""`lore demo`, `lore train`, and its steps one at a time."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lore.cli.application import app
from lore.cli.options import (
    ColumnOptions,
    Data,
    EncodingOptions,
    Families,
    Force,
    Out,
    Ranks,
    RunPath,
    Seed,
    SplitFile,
    SplitOptions,
    Splits,
    parse_rank,
    parse_ranks,
    say_what_is_missing,
    with_option_groups,
)
from lore.cli.output import program, progress_bars, show_outcome, show_results


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Where to leave everything.")] = Path("runs/demo"),
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Do the whole job on the embedded data: 400 simulated users judge small answers to everyday questions."""
    from lore.runs.demo import run_demo

    say_what_is_missing()
    with progress_bars() as progress:
        outcome = run_demo(out, seed=seed, force=force, progress=progress)
    show_outcome(outcome)
    user = outcome.split.unseen_shots.users[0]
    question = '{"prompt": "How do I cook rice?", "candidates": ["Rinse it first.", "What rice do you have?"]}'
    typer.echo(f"\nNext: echo '{question}' | {program()} rerank {out} --user {user}")


@app.command()
@with_option_groups
def train(
    data: Data,
    out: Out,
    encoding: EncodingOptions,
    splitting: SplitOptions,
    columns: ColumnOptions,
    family: Families = "auto",
    ranks: Ranks = "0,1,auto",
    seed: Seed = 0,
    split_file: SplitFile = None,
    half_life: Annotated[
        float | None,
        typer.Option(
            "--half-life",
            metavar="DAYS",
            help="Days after which an older comparison counts half, by its timestamp.",
            show_default=False,
        ),
    ] = None,
    force: Force = False,
    redact: Annotated[bool, typer.Option("--redact", help="Leave texts out of the report.")] = False,
) -> None:
    """Check, embed, split, fit, personalize, evaluate, report: the main job."""
    from lore.runs.config import TrainConfig
    from lore.runs.training import train as run_train

    config = TrainConfig(
        encoder=encoding.name(),
        family=family,
        ranks=parse_ranks(ranks),
        seed=seed,
        half_life=half_life,
        redact=redact,
        split_file=None if split_file is None else str(split_file),
        encoding=encoding.options(),
        **splitting.arguments(),
    )
    loaded = columns.load(data)
    with progress_bars() as progress:
        outcome = run_train(loaded, out, config, title=data.stem, force=force, progress=progress)
    show_outcome(outcome)


@app.command()
@with_option_groups
def embed(
    data: Data,
    encoding: EncodingOptions,
    splitting: SplitOptions,
    columns: ColumnOptions,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Where to leave everything.")] = Path("runs/new"),
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will cost; write nothing.")] = False,
    list_to: Annotated[
        Path | None,
        typer.Option("--list", help="Write the conversations to a .jsonl file instead, to embed them elsewhere."),
    ] = None,
    family: Families = "auto",
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Begin a RUN folder and embed every conversation once."""
    from lore.files import write_text
    from lore.runs.config import TrainConfig
    from lore.runs.steps import conversation_lines, embed_step, plan_step

    config = TrainConfig(encoding.name(), family, seed=seed, encoding=encoding.options(), **splitting.arguments())
    preferences = columns.load_usable(data).preferences
    if list_to is not None:
        write_text(list_to, conversation_lines(preferences))
        typer.echo(f"{preferences.rows:,} conversations in {list_to}")
        return
    if plan:
        typer.echo(plan_step(preferences, out, config).message())
        return
    with progress_bars() as progress:
        embeddings = embed_step(preferences, out, config, force=force, progress=progress)
    typer.echo(f"{len(embeddings):,} conversations of {embeddings.vectors.shape[1]} numbers in {out / 'embeddings'}")
    if message := embeddings.truncation_counts(preferences).message():
        typer.echo(message)


@app.command()
def fit(
    run: RunPath,
    rank: Annotated[str, typer.Option(help="Learned directions, or auto.")] = "auto",
    family: Annotated[
        Literal["simplex", "gaussian"] | None, typer.Option(help="Of the model.", show_default="that of the run")
    ] = None,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the model of a finished run.")] = False,
) -> None:
    """Learn a basis from the seen users of a RUN folder that has been embedded."""
    from lore.runs.steps import fit_step

    learned = fit_step(run, family, parse_rank(rank, "--rank must be a whole number or auto"), seed=seed, force=force)
    typer.echo(
        f"{learned.basis.family}, rank {learned.basis.rank}: loss {learned.loss:.4f}, optimality "
        f"{learned.optimality:.1e}; model in {run / 'model'}"
    )


@app.command()
@with_option_groups
def personalize(
    run: RunPath,
    data: Data,
    columns: ColumnOptions,
) -> None:
    """Add the comparisons in a file to a RUN folder and learn the weights of their users, the basis frozen."""
    from lore.runs.steps import personalize_step

    preferences = columns.load_usable(data).preferences
    with progress_bars() as progress:
        users = personalize_step(run, preferences, progress=progress)
    typer.echo(f"weights of {users:,} users in {run / 'users'}")
    if remaining := len(preferences.users) - users:
        typer.echo(f"{remaining:,} without a usable comparison: weights they had are unchanged, new users have none")


@app.command()
def evaluate(run: RunPath) -> None:
    """Measure the accuracy of the model of a RUN folder in the settings of its split."""
    from lore.runs.steps import evaluate_step

    for setting, measured in evaluate_step(run).items():
        interval = f" ({measured.low:.1%} to {measured.high:.1%})" if measured.low == measured.low else ""
        typer.echo(f"{setting:13} {measured.mean:.1%}{interval}, {measured.users} users")


@app.command()
def sweep(run: RunPath, ranks: Ranks = "0,1,auto", splits: Splits = 1) -> None:
    """Fit and evaluate several ranks on the split of a RUN folder."""
    from lore.runs.steps import sweep_step

    with progress_bars() as progress:
        outcome = sweep_step(run, parse_ranks(ranks), splits=splits, progress=progress)
    show_results(outcome.results)
    if outcome.finding is not None:
        typer.echo(f"\n{outcome.finding.headline}")
