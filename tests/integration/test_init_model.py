"""`tandem init-model` writes a model that transformers reads, tokenizer included."""

from pathlib import Path

import pytest
from tandem_core.errors import TandemError
from tandem_core.job.model import ModelSpec
from tandem_core.model_files import prepare_model
from tandem_local.new_model import build_scratch_model, write_model
from transformers import AutoModelForCausalLM, AutoTokenizer


def test_a_new_model_is_complete_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    scratch = build_scratch_model(tokenizer={"tokens": list("0123456789+=")}, hidden_size=16, layers=1)
    directory = tmp_path / "model"
    parameters = write_model(scratch, 7, directory)
    write_model(scratch, 7, tmp_path / "again")
    weights = (directory / "model.safetensors").read_bytes()
    assert weights == (tmp_path / "again" / "model.safetensors").read_bytes()
    model = AutoModelForCausalLM.from_pretrained(directory)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer.decode(tokenizer.encode("12+3=15")) == "12+3=15"
    assert prepare_model(ModelSpec(path=str(directory)), tmp_path / "unused") == directory
    with pytest.raises(TandemError, match="holds a model already"):
        write_model(scratch, 7, directory)
