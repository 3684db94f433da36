"""Reading an RLJob from YAML, with errors that say where and what to write."""

import difflib
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tandem_core.errors import TandemError
from tandem_core.job.rljob import RLJob


class _JobLoader(yaml.SafeLoader):
    """Takes 1e-5 for a number, as kubectl does; PyYAML wants 1.0e-5."""


_JobLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""libyaml's, if it is there: five times as fast, which an operator with a thousand jobs notices."""


class JobFileError(TandemError):
    """An RLJob that cannot be used; the message lists every problem with its place."""


def load_job(path: Path, overrides: Sequence[str] = ()) -> RLJob:
    """Read and check the RLJob in the file `path`, with `overrides` like "spec.iterations=10" applied first.

    Raises JobFileError for a missing file, bad YAML, an unknown field or a value that does not fit.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise JobFileError(f"cannot read the job file {path}: {error.strerror}") from error
    return parse_job(text, source=str(path), overrides=overrides)


def parse_job(text: str, *, source: str = "RLJob", overrides: Sequence[str] = ()) -> RLJob:
    """Check the RLJob in the YAML `text`; `source` names it in errors. Raises JobFileError."""
    try:
        documents = [document for document in yaml.load_all(text, _JobLoader) if document is not None]
    except yaml.YAMLError as error:
        raise JobFileError(f"{source} is not YAML: {error}") from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise JobFileError(f"{source} must hold exactly one RLJob object, found {len(documents)} YAML documents")
    job: dict[str, Any] = documents[0]
    for override in overrides:
        _apply_override(job, override)
    return check_job(job, source=source)


def check_job(job: dict[str, Any], *, source: str = "RLJob") -> RLJob:
    """The RLJob in the plain object `job`; `source` names it in errors. Raises JobFileError."""
    try:
        return RLJob.model_validate(job, by_name=False)
    except ValidationError as error:
        problems = "\n".join(f"  - {_describe(detail)}" for detail in error.errors())
        raise JobFileError(f"{source} is not a valid RLJob:\n{problems}") from error


def dump_job(job: RLJob) -> str:
    """The job as YAML, defaults written out; parse_job reads it back to an equal object."""
    plain = job.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.dump(plain, Dumper=_DUMPER, sort_keys=False)


def _apply_override(job: dict[str, Any], override: str) -> None:
    path, separator, value = override.partition("=")
    if not separator or not path:
        raise JobFileError(f"--set {override!r} must look like spec.iterations=10")
    *parents, last = path.split(".")
    place = job
    for key in parents:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise JobFileError(f"--set {override!r}: {key} is not an object")
    place[last] = yaml.load(value, _JobLoader)  # noqa: S506 - a SafeLoader


def _describe(detail: ErrorDetails) -> str:
    place = _place(detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = _known_fields(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
        return f"{place}: unknown field; {hint}"
    if detail["type"] == "missing":
        return f"{place}: is required"
    message = detail["msg"].removeprefix("Value error, ")
    found = "" if detail["type"] == "value_error" else f", found {detail['input']!r}"
    return f"{place}: {message}{found}"


def _place(location: tuple[int | str, ...]) -> str:
    text = ""
    for key in location:
        text += f"[{key}]" if isinstance(key, int) else f".{key}"
    return text.removeprefix(".") or "the object"


def _known_fields(location: Sequence[int | str]) -> list[str]:
    annotation: Any = RLJob
    for key in location:
        models = _models(annotation)
        fields = [field.annotation for model in models for field in model.model_fields.values() if field.alias == key]
        annotation = fields[0] if fields else annotation
    return [field.alias or "" for model in _models(annotation)[:1] for field in model.model_fields.values()]


def _models(annotation: Any) -> list[type[BaseModel]]:
    """All pydantic models that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, list, typing.Annotated):
        return [model for argument in typing.get_args(annotation) for model in _models(argument)]
    return []
