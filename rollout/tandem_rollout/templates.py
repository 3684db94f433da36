"""Jinja templates of prompts and reference answers, in a sandbox."""

from collections.abc import Sequence

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError
from jinja2.sandbox import SandboxedEnvironment
from tandem_core.errors import TandemError
from tandem_core.job.data import DataSpec

from tandem_rollout.sources import SourceRow


class PromptTemplateError(TandemError):
    """A template in the RLJob cannot be used."""


def render_rows(data: DataSpec, rows: Sequence[SourceRow]) -> tuple[list[str], list[str]]:
    """The prompt text and the target of each row; templates see prompt, answer and every column of the row.

    Raises PromptTemplateError that names the template, the row and the columns.
    """
    return (
        _render("data.promptTemplate", data.prompt_template, rows),
        _render("data.answerTemplate", data.answer_template, rows),
    )


def _render(name: str, source: str, rows: Sequence[SourceRow]) -> list[str]:
    environment = SandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    try:
        template = environment.from_string(source)
    except TemplateSyntaxError as error:
        raise PromptTemplateError(f"{name} {source!r} is not a Jinja template: {error.message}") from error
    texts = []
    for row in rows:
        try:
            texts.append(template.render({**row.row, "prompt": row.prompt, "answer": row.answer}))
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            known = ", ".join(sorted({*row.row, "prompt", "answer"}))
            raise PromptTemplateError(
                f"{name} {source!r} fails for row {row.id}: {error}; it can use: {known}"
            ) from error
    return texts
