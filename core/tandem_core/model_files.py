"""The model's files that every part needs: configuration and tokenizer, as transformers reads them."""

import json
import os
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from tandem_core.errors import TandemError
from tandem_core.job.model import ModelSpec, ScratchModel, ScratchTokenizer

PAD_TOKEN, END_TOKEN = "<pad>", "<end>"
_ARCHITECTURES = {"qwen3": "Qwen3ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM", "llama": "LlamaForCausalLM"}
_VOCABULARY_MULTIPLE = 64  # divisible by any tensor parallelism in use, so that no rank needs padding of its own
_CONFIG_NAME = "config.json"


class ModelFilesError(TandemError):
    """The model's files are missing or cannot be had."""


def prepare_model(spec: ModelSpec, directory: Path) -> Path:
    """The directory with the model's config.json and tokenizer (and weights, unless it is made from scratch).

    `path` is returned as it is, `hub` is downloaded to the Hugging Face cache, `scratch` is written to `directory`.
    Calling it again gives the same files. Raises ModelFilesError that says what is missing.
    """
    if spec.path is not None:
        return find_model(Path(spec.path))
    if spec.hub is not None:
        return _downloaded(spec.hub, spec.revision)
    if spec.scratch is None:
        raise ModelFilesError("the model has none of path, hub and scratch")
    write_scratch_model(spec.scratch, directory)
    return directory


def find_model(path: Path) -> Path:
    """`path`, if it is a directory with a model. Raises ModelFilesError."""
    if not (path / _CONFIG_NAME).is_file():
        found = "it does not exist" if not path.exists() else f"{_CONFIG_NAME} is not in it"
        raise ModelFilesError(
            f"model.path {path}: {found}. It must be a directory in Hugging Face format, there in every pod; "
            "`tandem init-model` makes one"
        )
    return path


def write_scratch_model(model: ScratchModel, directory: Path) -> None:
    """Write config.json, generation_config.json and the tokenizer's files; no weights."""
    directory.mkdir(parents=True, exist_ok=True)
    special = {"eos_token_id": 1, "pad_token_id": 0}
    files: dict[str, dict[str, Any]] = {
        _CONFIG_NAME: build_config(model),
        "generation_config.json": special,
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": END_TOKEN,
            "pad_token": PAD_TOKEN,
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.max_length,
        },
    }
    for name, content in files.items():
        _write_atomically(directory / name, json.dumps(content, indent=2))
    _write_atomically(directory / "tokenizer.json", build_tokenizer(model.tokenizer).to_str(pretty=True))


def build_config(model: ScratchModel) -> dict[str, Any]:
    """config.json of a model made from scratch, in Hugging Face's form."""
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[model.architecture]],
        "model_type": model.architecture,
        "vocab_size": _vocabulary_size(model.tokenizer),
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.attention_heads,
        "num_key_value_heads": model.key_value_heads,
        "head_dim": model.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": model.max_length,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rope_theta},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": model.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "dtype": "float32",
    }
    if model.experts:
        config |= {
            "num_experts": model.experts,
            "num_experts_per_tok": model.experts_per_token,
            "moe_intermediate_size": model.intermediate_size,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    return config


def build_tokenizer(spec: ScratchTokenizer) -> Tokenizer:
    """A tokenizer that takes the longest token that matches next. Text outside the vocabulary becomes no token:
    callers check that decoding gives the text back."""
    vocabulary = {token: index for index, token in enumerate([PAD_TOKEN, END_TOKEN, *spec.tokens])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD_TOKEN))
    longest_first = sorted(spec.tokens, key=len, reverse=True)
    pattern = "|".join(re.escape(token) for token in longest_first)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(PAD_TOKEN, special=True), AddedToken(END_TOKEN, special=True)])
    return tokenizer


def _vocabulary_size(tokenizer: ScratchTokenizer) -> int:
    tokens = len(tokenizer.tokens) + 2
    return -(-tokens // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def _downloaded(name: str, revision: str | None) -> Path:
    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=["*.bin", "*.pth", "original/*"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelFilesError(
            f"model.hub {name!r} (revision {revision or 'main'}) cannot be downloaded: {error}. Check the name, the "
            "network and HF_TOKEN, or download it and use model.path"
        ) from error


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # the ranks of a pod write at the same time
    temporary.write_text(text)
    temporary.replace(path)
