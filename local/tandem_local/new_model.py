"""Models of random weights, written as Hugging Face's transformers reads them."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from tandem_core.errors import TandemError
from tandem_core.job import load_job
from tandem_core.job.model import ScratchModel
from tandem_core.model_files import write_scratch_model


def build_scratch_model(**fields: Any) -> ScratchModel:
    """A model of these fields; raises TandemError that lists what does not fit."""
    try:
        return ScratchModel.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise TandemError(f"no model can be made of these options: {problems}") from error


def load_scratch_model(job_file: Path) -> tuple[ScratchModel, int]:
    """The model and the seed of a job; raises TandemError if its model is not made from scratch."""
    job = load_job(job_file)
    if job.spec.model.scratch is None:
        raise TandemError(f"{job_file}: spec.model has no `scratch`, so its model exists already")
    return job.spec.model.scratch, job.spec.seed


def write_model(model: ScratchModel, seed: int, directory: Path) -> int:
    """Write config, tokenizer and weights (fp32); returns the number of parameters.

    Raises TandemError if the directory holds a model already.
    """
    if any(directory.glob("*.safetensors")):
        raise TandemError(f"{directory} holds a model already: choose another directory, or remove it first")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    write_scratch_model(model, directory)
    torch.manual_seed(seed)
    network = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(directory))
    network.save_pretrained(directory)
    return sum(parameter.numel() for parameter in network.parameters())
