"""The API server accepts and refuses what the types do, and fills in the same defaults.

TANDEM_EXAMPLES=5000 tries more than CI does.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from pydantic import ValidationError
from tandem_core.job import RLJob

from .rljob_api import Api, Object, Refused
from .rljob_specs import specs

EXAMPLES = int(os.environ.get("TANDEM_EXAMPLES", "300"))


@pytest.fixture(scope="module")
def api(crd: Path) -> Iterator[Api]:
    with Api(crd, "default") as api:
        yield api


@settings(
    max_examples=EXAMPLES,
    derandomize=EXAMPLES == 300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(spec=specs())
def test_types_and_api_server_agree(api: Api, spec: dict[str, Any]) -> None:
    job = {"apiVersion": "tandem.dev/v1alpha1", "kind": "RLJob", "metadata": {"name": "a"}, "spec": spec}
    expected, problem = by_types(job)
    found, refusal = by_api_server(api, job)
    assert (expected is None) == (found is None), problem or refusal
    if expected is None or found is None:
        return
    assert written(RLJob.model_validate(found, by_name=False)) == written(expected)
    assert without_scorers(found["spec"]) == without_scorers(written(expected))


def by_types(job: Object) -> tuple[RLJob | None, str]:
    try:
        return RLJob.model_validate(job, by_name=False), ""
    except ValidationError as error:
        return None, str(error)


def by_api_server(api: Api, job: Object) -> tuple[Object | None, str]:
    try:
        return api.create(job, dry_run=True), ""
    except Refused as refusal:
        return None, str(refusal)


def written(job: RLJob) -> Object:
    """The specification with all defaults."""
    return job.spec.model_dump(mode="json", by_alias=True, exclude_none=True)


def without_scorers(spec: Object) -> Object:
    """Defaults that only some scorers have are filled in by the types alone."""
    return spec | {"rewards": {name: value for name, value in spec["rewards"].items() if name != "scorers"}}
