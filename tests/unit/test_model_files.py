"""Models made from scratch: their tokenizer and configuration as transformers reads them."""

from pathlib import Path

import pytest
from tandem_core.job.model import ModelSpec, ScratchModel, ScratchTokenizer
from tandem_core.model_files import ModelFilesError, build_tokenizer, prepare_model
from tokenizers import Tokenizer

TOKENS = ["Calculate ", " + ", ".", *"0123456789", "12"]


def scratch(**changes: object) -> ModelSpec:
    return ModelSpec(scratch=ScratchModel(tokenizer=ScratchTokenizer(tokens=TOKENS), **changes))  # type: ignore[arg-type]


def test_the_longest_token_wins_and_decoding_gives_the_text_back() -> None:
    tokenizer = build_tokenizer(ScratchTokenizer(tokens=TOKENS))
    encoded = tokenizer.encode("Calculate 12 + 31.")
    assert encoded.tokens == ["Calculate ", "12", " + ", "3", "1", "."]
    assert tokenizer.decode(encoded.ids) == "Calculate 12 + 31."


def test_files_are_the_same_when_written_again(tmp_path: Path) -> None:
    spec = scratch()
    first = {path.name: path.read_bytes() for path in prepare_model(spec, tmp_path / "a").iterdir()}
    again = {path.name: path.read_bytes() for path in prepare_model(spec, tmp_path / "a").iterdir()}
    assert first == again
    assert set(first) == {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
    assert Tokenizer.from_file(str(tmp_path / "a" / "tokenizer.json")).token_to_id("<end>") == 1


def test_a_path_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFilesError, match="does not exist"):
        prepare_model(ModelSpec(path=str(tmp_path / "absent")), tmp_path)
    with pytest.raises(ModelFilesError, match=r"config\.json is not in it"):
        prepare_model(ModelSpec(path=str(tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key_value_heads": 3}, "must divide attentionHeads"),
        ({"architecture": "qwen3_moe"}, "experts must be above 0"),
        ({"architecture": "qwen3_moe", "experts": 2, "experts_per_token": 4}, "must not exceed experts"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scratch(**changes)
