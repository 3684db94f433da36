"""How answers are generated."""

from typing import Self

from pydantic import Field, model_validator

from tandem_core.job.schema import Count, SpecModel


class RepetitionSpec(SpecModel):
    """When an answer counts as going in circles and is ended (Kimi k1.5, 2.6.2)."""

    max_pattern_tokens: Count = Field(default=0, ge=0)
    """Longest repeated pattern to look for; 0 turns detection off."""
    min_pattern_tokens: Count = Field(default=1, ge=1)
    """Shortest repeated pattern."""
    repeats: Count = Field(default=8, ge=2)
    """How often in a row the pattern must stand."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.max_pattern_tokens and self.min_pattern_tokens > self.max_pattern_tokens:
            raise ValueError(
                f"minPatternTokens ({self.min_pattern_tokens}) must not exceed "
                f"maxPatternTokens ({self.max_pattern_tokens})"
            )
        return self


class RolloutSpec(SpecModel):
    """One iteration's answers."""

    prompts: Count = Field(default=32, ge=1)
    """Prompts in progress in an iteration; carried-over ones count."""
    group_size: Count = Field(default=8, ge=1)
    """Answers for each prompt."""
    max_tokens: Count = Field(default=1024, ge=1)
    """Longest answer, over all iterations it may span."""
    tokens_per_iteration: Count | None = Field(default=None, ge=1)
    """Output-token budget of one answer in one iteration; what is unfinished is continued in the next iteration
    (partial rollouts, Kimi k1.5, 2.6.2). Left out: answers are finished in one iteration."""
    complete_prompts: Count | None = Field(default=None, ge=1)
    """The rollout phase ends as soon as this many prompts have all their answers; the rest is carried over.
    Left out: it waits for all."""
    temperature: float = Field(default=1.0, ge=0)
    """Sampling temperature; the trainer's log-probabilities are those of this temperature too. 0: the likeliest token
    each time (greedy), with log-probabilities of temperature 1; needs algorithm.loss: rest, because all answers to a
    prompt are alike."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the smallest set of tokens with this probability."""
    repetition: RepetitionSpec = Field(default_factory=RepetitionSpec)
    """Detection of answers that go in circles."""
    drop_uninformative: bool = False
    """Whether groups whose answers all got the same reward are left out of training."""

    @property
    def policy_temperature(self) -> float:
        """Of the distribution that log-probabilities are of, the engine's and the trainer's."""
        return self.temperature or 1.0

    @model_validator(mode="after")
    def _budgets_fit(self) -> Self:
        if self.tokens_per_iteration is not None and self.tokens_per_iteration > self.max_tokens:
            raise ValueError(
                f"rollout.tokensPerIteration ({self.tokens_per_iteration}) must not exceed "
                f"rollout.maxTokens ({self.max_tokens}): lower it, or leave it out"
            )
        if self.complete_prompts is not None and self.complete_prompts > self.prompts:
            raise ValueError(
                f"rollout.completePrompts ({self.complete_prompts}) must not exceed rollout.prompts ({self.prompts})"
            )
        return self
