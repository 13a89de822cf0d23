"""`lore reproduce`: the experiments of the paper."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lore.cli.application import app
from lore.cli.options import EncodingOptions, Force, Out, SplitFile, with_option_groups
from lore.cli.output import progress_bars, show_outcome


@app.command()
@with_option_groups
def reproduce(
    experiment: Annotated[
        Literal["personalllm", "prism", "tldr"], typer.Argument(help="Which experiment.", show_default=False)
    ],
    out: Out,
    encoding: EncodingOptions,
    data: Annotated[
        Path | None, typer.Option(help="The data set, as published; downloaded if it is not given.", show_default=False)
    ] = None,
    embeddings: Annotated[
        Path | None,
        typer.Option(help="Folder of train.safetensors and test.safetensors (personalllm).", show_default=False),
    ] = None,
    protocol: Annotated[Literal["lore", "original"], typer.Option(help="Our own, or the published one.")] = "lore",
    concentration: Annotated[
        float | None, typer.Option(help="Dirichlet parameter of the users (personalllm).", show_default="0.1")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="0, drawn by the original protocol.", show_default=False)] = None,
    split_file: SplitFile = None,
    force: Force = False,
) -> None:
    """Run an experiment of the paper on its real data set."""
    from lore.runs.paper.reproduce import reproduce as run_experiment

    with progress_bars() as progress:
        outcome = run_experiment(
            experiment,
            out,
            data=data,
            embeddings=embeddings,
            protocol=protocol,
            concentration=concentration,
            encoder=encoding.name(),
            encoding=encoding.options(),
            seed=seed,
            split_file=split_file,
            force=force,
            progress=progress,
        )
    show_outcome(outcome)
