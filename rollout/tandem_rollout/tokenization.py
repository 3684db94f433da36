"""The model's tokenizer, as the rollout master uses it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tandem_core.errors import TandemError

_PLAIN_CLASS = "PreTrainedTokenizerFast"


class TokenizerError(TandemError):
    """The tokenizer's files are missing or do not fit the job."""


class Tokenizer(Protocol):
    """Text to tokens and back."""

    @property
    def eos_token_id(self) -> int:
        """The token that ends an answer."""
        ...

    @property
    def max_length(self) -> int:
        """Longest sequence of the model (config.json), in tokens."""
        ...

    def encode(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[list[int]]:
        """The tokens of each text; with `special_tokens`, those that the tokenizer adds around a text are in it."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`, special ones left out."""
        ...

    def render_chat(self, text: str) -> str:
        """`text` as a user's turn in the chat template, up to where the answer starts. Raises TokenizerError."""
        ...


def load_tokenizer(model_directory: Path, *, trust_remote_code: bool = False) -> Tokenizer:
    """The tokenizer of a model in Hugging Face form.

    A plain one is read with `tokenizers` alone: importing transformers would cost seconds at every start of the
    master. Raises TokenizerError if files are missing or there is no token that ends an answer.
    """
    config = _read_json(model_directory / "tokenizer_config.json")
    max_length = _max_length(model_directory)
    file = model_directory / "tokenizer.json"
    plain = config.get("tokenizer_class") == _PLAIN_CLASS and not config.get("clean_up_tokenization_spaces")
    if plain and file.is_file() and not _has_chat_template(model_directory, config):
        return _PlainTokenizer(file, _text_of(config.get("eos_token")), max_length)
    return _TransformersTokenizer(model_directory, max_length, trust_remote_code=trust_remote_code)


class _PlainTokenizer:
    """A tokenizer.json and nothing else."""

    def __init__(self, file: Path, eos_token: str, max_length: int) -> None:
        self._tokenizer = tokenizers.Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        eos = self._tokenizer.token_to_id(eos_token)
        if eos is None:
            raise TokenizerError(_no_eos(file.parent, eos_token))
        self.eos_token_id: int = eos
        self.max_length = max_length
        self._directory = file.parent

    def encode(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=special_tokens)
        return [encoding.ids for encoding in encodings]

    def decode(self, tokens: Sequence[int]) -> str:
        return self._tokenizer.decode(list(tokens), skip_special_tokens=True)

    def render_chat(self, text: str) -> str:
        raise TokenizerError(_no_chat_template(self._directory))


class _TransformersTokenizer:
    """Whatever transformers makes of the directory."""

    def __init__(self, directory: Path, max_length: int, *, trust_remote_code: bool) -> None:
        from transformers import AutoTokenizer  # seconds to import: only for models that need it

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=trust_remote_code)
        except (OSError, ValueError, KeyError) as error:
            raise TokenizerError(f"transformers cannot read the tokenizer in {directory}: {error}") from error
        if self._tokenizer.eos_token_id is None:
            raise TokenizerError(_no_eos(directory, ""))
        self.eos_token_id = int(self._tokenizer.eos_token_id)
        self.max_length = max_length
        self._directory = directory

    def encode(self, texts: Sequence[str], *, special_tokens: bool = True) -> list[list[int]]:
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=special_tokens)["input_ids"]
        return ids

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def render_chat(self, text: str) -> str:
        if not self._tokenizer.chat_template:
            raise TokenizerError(_no_chat_template(self._directory))
        turns = [{"role": "user", "content": text}]
        return str(self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _max_length(directory: Path) -> int:
    config = _read_json(directory / "config.json")
    config = config.get("text_config", config)
    length = config.get("max_position_embeddings")
    if not isinstance(length, int):
        raise TokenizerError(
            f"{directory / 'config.json'} has no max_position_embeddings, the longest sequence of the model: add it"
        )
    return length


def _has_chat_template(directory: Path, config: dict[str, Any]) -> bool:
    return "chat_template" in config or (directory / "chat_template.jinja").is_file()


def _text_of(token: str | dict[str, Any] | None) -> str:
    """Special tokens stand in tokenizer_config.json as a text or as {"content": text, ...}."""
    return str(token.get("content", "")) if isinstance(token, dict) else token or ""


def _no_eos(directory: Path, token: str) -> str:
    return (
        f"the tokenizer in {directory} has no end-of-sequence token (eos_token {token!r} in tokenizer_config.json): "
        "answers would never end; name a token of the vocabulary there"
    )


def _no_chat_template(directory: Path) -> str:
    return f"data.chat is true, but the tokenizer in {directory} has no chat template: set data.chat to false"


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"cannot read {file}: {error}. The model's directory must be complete, in Hugging Face format"
        ) from error
    return content
