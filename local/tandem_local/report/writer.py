"""Reads a job's history and writes the page."""

import os
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from tandem_core.job import RLJob, dump_job
from tandem_rollout.page.cards import build_cards
from tandem_rollout.page.figures import build_figures, build_more_figures, describe_progress, shown_iterations
from tandem_rollout.page.phase_times import build_phase_seconds, format_seconds
from tandem_rollout.page.timeline import build_timeline
from tandem_rollout.storage.history import AccuracyRecord
from tandem_rollout.storage.history_file import History, open_history

from tandem_local.report.contents import Contents
from tandem_local.report.samples import build_evaluation_samples, load_samples


def write_report(history_path: Path, job: RLJob, output: Path) -> None:
    """Write the report of `job`, whose SQLite replay buffer is `history_path`, to the HTML file `output`.

    The file stands alone: no network, and no code but its own. An earlier one is replaced at once, so that it can be
    written again and again while the job runs. Raises StorageError if there is no such replay buffer.
    """
    with open_history(history_path) as history:
        page = render_report(history, job)
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8")
    unfinished.replace(output)


def render_report(history: History, job: RLJob) -> str:
    """The report as HTML."""
    records = history.iterations()
    evaluations = history.evaluations()
    accuracies = [AccuracyRecord(each.iteration, each.accuracy, len(each.samples)) for each in evaluations]
    shown = shown_iterations(records)
    contents = Contents(
        iterations=[record.iteration for record in shown],
        figures=build_figures(shown, accuracies),
        more_figures=build_more_figures(shown),
        phases=build_phase_seconds(records),
        timeline=build_timeline(history.activities()),
        samples=load_samples(history, [record.iteration for record in shown]),
        evaluation_samples=build_evaluation_samples(evaluations),
    )
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("tandem_local.report"), PackageLoader("tandem_rollout.page", "static")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = format_seconds
    return environment.get_template("report.html").render(
        job=job,
        job_yaml=dump_job(job),
        cards=build_cards(job.spec.iterations, records, accuracies),
        phases=contents.phases,
        progress=describe_progress(job.spec.iterations, records),
        written_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        contents=_embed(contents),
        has_more=bool(contents.more_figures),
        has_iterations=bool(shown),
    )


def _embed(contents: Contents) -> Markup:
    """JSON that may stand in a script element: a model's answer cannot end the element."""
    text = contents.model_dump_json(exclude_defaults=True)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - escaped here
