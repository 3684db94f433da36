"""One file with all that helps to find out what is wrong with a job; secrets are taken out."""

import io
import json
import tarfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from tandem_core.errors import TandemError

from tandem_local.inspection.facts import JobFacts
from tandem_local.inspection.findings import Finding, find_problems
from tandem_local.inspection.job_text import build_status
from tandem_local.inspection.source import Collection
from tandem_local.inspection.waits import find_waits

LOG_LINES = 2000
_WIDTH = 160
_OWN_FILE = 0o600
NOTHING_FOUND = "Nothing that is known to be wrong was found."


def build_files(collection: Collection, now: float) -> dict[str, str]:
    """Text by file name, without secrets: the diagnosis first. Pure."""
    facts, redactor = collection.facts, collection.redactor
    texts = {
        "diagnosis.txt": describe_findings(find_problems(facts, now)),
        "status.txt": _render_status(facts, now),
        "events.txt": "".join(
            f"{_clock(event.at)} {'Warning' if event.warning else 'Normal '} {event.about} {event.reason} "
            f"x{event.count}: {event.message}\n"
            for event in facts.events
        ),
        "iterations.json": json.dumps([asdict(record) for record in facts.iterations], indent=1, default=dict),
        **({"etcd.json": facts.snapshot.model_dump_json(indent=1)} if facts.snapshot is not None else {}),
        **collection.texts,
    }
    return {name: redactor.text(text) for name, text in texts.items() if text}


def describe_findings(findings: Sequence[Finding]) -> str:
    """What seems to be wrong, and what to do."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.level:<7}{finding.what}")
        lines += [f"       from: {finding.evidence}"] if finding.evidence else []
        lines += [f"       -> {finding.remedy}"] if finding.remedy else []
    return "\n".join([*(lines or [NOTHING_FOUND]), ""])


def write_files(files: dict[str, str], path: Path, now: float) -> None:
    """Write them into a .tar.gz that only its owner may read. Raises TandemError."""
    folder = path.name.removesuffix(".gz").removesuffix(".tar").removesuffix(".tgz")
    try:
        path.touch(_OWN_FILE)
        with tarfile.open(path, "w:gz") as archive:
            for name, text in files.items():
                content = text.encode()
                entry = tarfile.TarInfo(f"{folder}/{name}")
                entry.size, entry.mtime, entry.mode = len(content), int(now), 0o644
                archive.addfile(entry, io.BytesIO(content))
    except OSError as error:
        raise TandemError(f"cannot write {path}: {error.strerror}; --output names another place") from error


def _render_status(facts: JobFacts, now: float) -> str:
    console = Console(file=io.StringIO(), width=_WIDTH, no_color=True, force_terminal=False)
    with console.capture() as capture:
        console.print(build_status(facts, find_waits(facts, now), now))
    return capture.get()


def _clock(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
