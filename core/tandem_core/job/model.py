"""Which language model a job trains."""

from collections import Counter
from typing import Literal, Self

from pydantic import Field, model_validator

from tandem_core.job.schema import Count, SpecModel, Text


class ScratchTokenizer(SpecModel):
    """A closed vocabulary for small models: the longest token that matches next is taken."""

    tokens: list[Text] = Field(min_length=1, max_length=16_384)
    """Texts that are one token each. A prompt or answer with any other text in it is refused."""

    @model_validator(mode="after")
    def _no_token_twice(self) -> Self:
        repeated = [token for token, count in Counter(self.tokens).items() if count > 1]
        if repeated:
            raise ValueError(f"tokens must all be different; repeated: {repeated}")
        return self


class ScratchModel(SpecModel):
    """A model made from random numbers: for demos, tests and experiments with architectures."""

    architecture: Literal["qwen3", "qwen3_moe", "llama"] = "qwen3"
    """The Hugging Face architecture."""
    hidden_size: Count = Field(default=64, ge=8)
    """Width of the residual stream."""
    intermediate_size: Count = Field(default=256, ge=8)
    """Width of the feed-forward layer (of one expert, where there are experts)."""
    layers: Count = Field(default=2, ge=1)
    """Number of transformer layers."""
    attention_heads: Count = Field(default=4, ge=1)
    """Number of query heads."""
    key_value_heads: Count = Field(default=2, ge=1)
    """Number of key and value heads; must divide attentionHeads."""
    head_size: Count = Field(default=32, ge=8)
    """Width of one head; on cpu one of the sizes that vLLM knows there: 32, 64, 80, 96, 112, 128, 160, 192, 224, 256,
    512."""
    max_length: Count = Field(default=2048, ge=8)
    """Longest sequence, in tokens."""
    tie_embeddings: bool = True
    """Whether the output layer shares the embedding's weights."""
    experts: Count = Field(default=0, ge=0)
    """Number of experts; for qwen3_moe only."""
    experts_per_token: Count = Field(default=2, ge=1)
    """How many experts each token visits; for qwen3_moe only."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary position embedding."""
    tokenizer: ScratchTokenizer
    """The model's own tokenizer."""

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.attention_heads % self.key_value_heads:
            raise ValueError(
                f"keyValueHeads ({self.key_value_heads}) must divide attentionHeads ({self.attention_heads}): "
                f"write a divisor of {self.attention_heads}"
            )
        if (self.architecture == "qwen3_moe") != (self.experts > 0):
            raise ValueError("experts must be above 0 for architecture qwen3_moe, and 0 (or left out) for the others")
        if self.experts and self.experts_per_token > self.experts:
            raise ValueError(f"expertsPerToken ({self.experts_per_token}) must not exceed experts ({self.experts})")
        return self


class ModelSpec(SpecModel):
    """Exactly one of path, hub and scratch."""

    path: Text | None = None
    """A directory with a Hugging Face model (config.json, safetensors, tokenizer). On a cluster, mount it at this place
    in every container through spec.pods."""
    hub: Text | None = None
    """A model's name on the Hugging Face hub, downloaded by every pod into its cache."""
    revision: Text | None = None
    """The hub's commit or tag; for hub only."""
    scratch: ScratchModel | None = None
    """A model made from random numbers."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run. Leave it off unless you have read that code."""

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        given = [name for name in ("path", "hub", "scratch") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"model needs exactly one of path, hub and scratch; found {given or 'none'}")
        if self.revision is not None and self.hub is None:
            raise ValueError("model.revision goes with model.hub: add hub, or remove revision")
        if self.path is not None and not self.path.startswith("/"):
            raise ValueError(f"model.path must be absolute, found {self.path!r}: every pod mounts it at that place")
        return self
