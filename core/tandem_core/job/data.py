"""Where prompts come from and how the next ones are chosen."""

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from tandem_core.job.schema import Count, SpecModel, Text


class ReasoningGymSource(SpecModel):
    """A procedurally generated task of the reasoning-gym library."""

    task: Text
    """The task's name, such as basic_arithmetic (https://github.com/open-thought/reasoning-gym lists them)."""
    config: dict[str, JsonValue] = {}
    """Options of the task. size and seed are set by Tandem."""
    size: Count = Field(default=10_000, ge=2)
    """How many problems to generate, held-out ones included."""


class DatasetSource(SpecModel):
    """A dataset read by the `datasets` library: JSON lines, parquet, or a name on the hub."""

    path: Text
    """A file ending in .jsonl, .json or .parquet (on a cluster, mount it into the master through spec.pods.master), or
    a dataset's name on the hub."""
    name: Text | None = None
    """The hub dataset's configuration, such as main."""
    split: Text = "train"
    """The split to read."""
    prompt_field: Text = "prompt"
    """The column that holds the prompt."""
    answer_field: Text = "answer"
    """The column that holds the reference answer."""
    difficulty_field: Text | None = None
    """A column with a number, larger for harder prompts; curriculum sampling needs it."""


class DataSpec(SpecModel):
    """Prompts and reference answers. Exactly one of reasoningGym and dataset."""

    reasoning_gym: ReasoningGymSource | None = None
    """A generated task."""
    dataset: DatasetSource | None = None
    """A dataset."""
    prompt_template: str = "{{ prompt }}"
    """Jinja template of the model's input; sees prompt, answer and every column of the row."""
    answer_template: str = "{{ answer }}"
    """Jinja template of the answer that the warm-up imitates; sees the same as promptTemplate."""
    chat: bool = False
    """Whether to wrap the prompt in the tokenizer's chat template as a user turn."""
    held_out: float = Field(default=0.1, gt=0, lt=1)
    """The share of prompts kept for evaluation and never trained on."""
    sampling: Literal["uniform", "curriculum", "prioritised"] = "uniform"
    """How prompts are chosen: at random; easy ones first by difficulty; or with probability proportional to
    1 - success rate (Kimi k1.5, 2.3.4)."""
    curriculum_iterations: Count = Field(default=100, ge=1)
    """For curriculum: after how many iterations all difficulties are in use."""
    too_long: Literal["error", "skip"] = "error"
    """What to do with a prompt that leaves no room for an answer."""

    @model_validator(mode="after")
    def _exactly_one_source(self) -> Self:
        if (self.reasoning_gym is None) == (self.dataset is None):
            raise ValueError("data needs exactly one of reasoningGym and dataset")
        if self.sampling == "curriculum" and self.dataset is not None and self.dataset.difficulty_field is None:
            raise ValueError("data.sampling: curriculum needs data.dataset.difficultyField, the column to order by")
        return self
