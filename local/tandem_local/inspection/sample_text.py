"""Answers for the eyes. Pure."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text
from tandem_rollout.storage.history import SampleRecord

from tandem_local.report.samples import shorten


def build_samples(samples: Sequence[SampleRecord]) -> RenderableType:
    """Prompt, answer and reward of each. Texts are shown as they are, but for characters that would act on a
    terminal."""
    return Group(*map(_build_sample, samples))


def describe_none(iteration: int | None) -> str:
    """What to say where there are none."""
    if iteration is None:
        return "nothing was trained on yet: the first answers are there when an iteration's rollouts are done"
    return f"no answer was trained on in iteration {iteration}: `status` shows the iterations that there were"


def _build_sample(sample: SampleRecord) -> RenderableType:
    versions = {sample.first_version, sample.last_version}
    made_by = f"version {' to '.join(str(version) for version in sorted(versions))}"
    parts = ", ".join(f"{name} {value:.3g}" for name, value in sample.parts.items()) if len(sample.parts) > 1 else ""
    facts = [f"reward {sample.reward:.3g}{f' ({parts})' if parts else ''}", f"{sample.tokens} tokens", made_by]
    text = Text.assemble((printable(shorten(sample.prompt)), "dim"), "\n", printable(shorten(sample.text)))
    return Panel(
        text,
        title=f"iteration {sample.iteration}, prompt {sample.prompt_id}, answer {sample.index + 1}",
        subtitle=f"{', '.join(facts)}, ended by {sample.finish_reason}",
        title_align="left",
        subtitle_align="left",
        border_style="green" if sample.correct else "red",
    )


def printable(text: str) -> str:
    """`text` with its control characters, which a model may write, made visible."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else repr(letter)[1:-1] for letter in text)
