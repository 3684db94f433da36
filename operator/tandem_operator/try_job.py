"""`python -m tandem_operator.try_job FILE`: run an RLJob to its end, as `helm test` does with a small one."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

import yaml
from tandem_core.errors import TandemError
from tandem_core.job.conditions import ConditionType

from tandem_operator.build import KubernetesObject
from tandem_operator.kubernetes_api import KubernetesApi, load_configuration
from tandem_operator.plan.job import GRACE_ANNOTATION
from tandem_operator.resources import RLJOB

LOOK_SECONDS = 1.0
GONE_SECONDS = 120.0
"""How long a deleted job may take to go: its pods have a grace period."""
_GRACE = {GRACE_ANNOTATION: "0"}


async def try_job(body: KubernetesObject, timeout_seconds: float) -> None:
    """Make the job, print what becomes of it, and delete it. Raises TandemError if it does not complete in time."""
    namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
    body = {**body, "metadata": {**body["metadata"], "annotations": _GRACE}}
    async with KubernetesApi(await load_configuration()) as api:
        await _remove(api, namespace, name)
        await api.create(RLJOB, body)
        try:
            async with asyncio.timeout(timeout_seconds):
                await _follow(api, namespace, name)
        except TimeoutError as error:
            raise TandemError(
                f"RLJob {namespace}/{name} is not complete after {timeout_seconds:.0f} s: its last words are above"
            ) from error
        finally:
            await _remove(api, namespace, name)


async def _follow(api: KubernetesApi, namespace: str, name: str) -> None:
    """Print each new state; return when it is complete, raise TandemError when it has failed."""
    told = ""
    while True:
        status = (await api.read(RLJOB, namespace, name) or {}).get("status", {})
        conditions = {each["type"]: each for each in status.get("conditions", [])}
        if (text := _describe(status)) != told:
            told = text
            print(text, flush=True)
        complete, failed = (conditions.get(kind, {}) for kind in (ConditionType.COMPLETE, ConditionType.FAILED))
        if complete.get("status") == "True":
            return
        if failed.get("status") == "True":
            raise TandemError(f"RLJob {namespace}/{name} failed: {failed['message']}")
        await asyncio.sleep(LOOK_SECONDS)


async def _remove(api: KubernetesApi, namespace: str, name: str) -> None:
    """Return when no such job is there; raises TimeoutError."""
    async with asyncio.timeout(GONE_SECONDS):
        while found := await api.read(RLJOB, namespace, name):
            await api.delete(RLJOB, namespace, name, found["metadata"]["uid"])
            await asyncio.sleep(LOOK_SECONDS)


def _describe(status: dict[str, Any]) -> str:
    words = [f"{status.get('phase', 'Pending')}, iteration {status.get('iteration', 0)}"]
    for each in status.get("conditions", []):
        if each["type"] in (ConditionType.DEGRADED, ConditionType.PROGRESSING) and each["message"]:
            words.append(f"{each['reason']}: {each['message']}")
    return "; ".join(words)


def main() -> int:
    """Exit code: 1 if the job did not complete."""
    parser = argparse.ArgumentParser(prog="python -m tandem_operator.try_job", description=__doc__)
    parser.add_argument("file", type=Path, help="the RLJob, with a namespace")
    parser.add_argument("--timeout-seconds", type=float, default=900.0, help="from its creation to its end (900)")
    options = parser.parse_args()
    try:
        asyncio.run(try_job(yaml.safe_load(options.file.read_text()), options.timeout_seconds))
    except (TandemError, TimeoutError) as error:
        print(f"{error}\nkubectl describe rljob and kubectl events say more.", file=sys.stderr)
        return 1
    print("complete")
    return 0


if __name__ == "__main__":
    sys.exit(main())
