"""`lore reproduce`: the experiments, from the published data sets."""

import math
import secrets
from dataclasses import replace
from pathlib import Path

from lore.data.formats import load_with_issues
from lore.embedding import EncoderOptions
from lore.embedding.packaged import default_encoder
from lore.errors import ConfigError, RunError
from lore.progress import Progress, silent
from lore.runs.config import Experiment, ProtocolName, TrainConfig
from lore.runs.folder import RunFolder
from lore.runs.paper.download import download
from lore.runs.paper.personalllm import ScoredSource, personalllm
from lore.runs.paper.protocols import load_settings
from lore.runs.training import TrainOutcome, train


def reproduce(
    experiment: Experiment,
    out: str | Path,
    *,
    data: str | Path | None = None,
    embeddings: str | Path | None = None,
    protocol: ProtocolName = "lore",
    concentration: float | None = None,
    encoder: str | None = None,
    encoding: EncoderOptions | None = None,
    seed: int | None = None,
    split_file: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> TrainOutcome:
    """One of the paper's experiments.

    Args:
        experiment: which one; its settings are in `experiments/*.toml`.
        out: the RUN folder.
        data: the published data set: a folder with train and test files (personalllm), the folder of PRISM, or rows of
            TLDR; downloaded by its id where none is given.
        embeddings: a folder with `train.safetensors` and `test.safetensors`, key "embeddings", eight rows a prompt
            (personalllm), instead of an encoder.
        protocol: "lore", converged and validated, or "original", the published number of steps and rates.
        concentration: Dirichlet parameter of the simulated users, instead of the 0.1 of the settings (personalllm).
        encoder: what `lore.embedding.load_encoder` takes; the best that is installed by default.
        encoding: how it encodes.
        seed: of users, splits and fits; 0 by default, drawn by "original", which has none.
        split_file: the `split.json` of another run of the experiment, whose split to take (prism, tldr).
        force: replace what is in `out`.
        progress: called with every step.

    Raises:
        DataError: the data are not the published ones.
        ConfigError: embeddings or a concentration are given for an experiment that has none; it is not positive.
        RunError: `out` holds something else.
    """
    settings = load_settings(experiment, protocol)
    if seed is None:
        begun_with = _begun_with(Path(out)) if protocol == "original" else 0
        seed = secrets.randbelow(2**31) if begun_with is None else begun_with
    if concentration is not None:
        if not 0 < concentration < math.inf:
            raise ConfigError(f"`concentration` must be a positive number, got {concentration}")
        settings = replace(settings, sampling=settings.sampling | {"concentration": concentration})
    config = TrainConfig(
        encoder=encoder or default_encoder(),
        family="simplex",
        ranks=settings.ranks,
        seed=seed,
        min_pairs=1,
        split_file=None if split_file is None else str(split_file),
        encoding=encoding or EncoderOptions(),
        experiment=experiment,
        protocol=protocol,
    )
    if experiment == "personalllm":
        if split_file is not None:
            raise ConfigError("`split_file` is for prism and tldr; personalllm simulates its users from the seed")
        source = ScoredSource(data, None if embeddings is None else Path(embeddings))
        return personalllm(source, Path(out), config, settings, force=force, progress=progress)
    if embeddings is not None or concentration is not None:
        raise ConfigError("`embeddings` and `concentration` are for personalllm, which simulates; leave them out")
    loaded = load_with_issues(data if data is not None else download(experiment, settings.hub), format=experiment)
    return train(loaded, out, config, title=experiment, force=force, progress=progress)


def _begun_with(folder: Path) -> int | None:
    """Return the seed of an unfinished run, which the same command goes on with."""
    try:
        state = RunFolder(folder).state()
    except RunError:
        return None
    return None if state["finished"] else int(state["config"]["seed"])
