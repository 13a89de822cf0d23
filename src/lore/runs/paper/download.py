"""Published data sets, downloaded."""

import logging
from pathlib import Path
from typing import Any

from lore.errors import DataError, MissingExtra, first_line
from lore.runs.config import Experiment


def download(experiment: Experiment, hub: str) -> Any:
    """Download the published data set: a folder for PRISM, rows for TLDR, rows by split for PersonalLLM."""
    try:
        import datasets
        import huggingface_hub
    except ImportError:
        raise MissingExtra("datasets", "data") from None
    logging.getLogger("huggingface_hub").setLevel(
        logging.ERROR
    )  # it tells of every attempt; the last one is told below
    try:
        if experiment == "prism":
            return Path(huggingface_hub.hf_hub_download(hub, "conversations.jsonl", repo_type="dataset")).parent
        if experiment == "tldr":
            parts = datasets.load_dataset(hub, "comparisons")
            return datasets.concatenate_datasets([parts["train"], parts["validation"]])
        return datasets.load_dataset(hub)
    except (OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise DataError(f"{hub}: cannot be downloaded ({reason}); give the data set as `data`") from None
