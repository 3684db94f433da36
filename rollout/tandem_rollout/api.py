"""The master's HTTP API: batches for the trainer, health, metrics, and the job's page."""

import asyncio
import hmac
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Response
from fastapi import Path as PathParameter
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from tandem_core.batches import TrainingBatch
from tandem_core.coordination.records import Member, Summary
from tandem_core.job import RLJob

from tandem_rollout.metrics import JobState, render_metrics
from tandem_rollout.page.routes import PageSource, add_page
from tandem_rollout.storage.history import ServedRecord
from tandem_rollout.storage.replay_buffer import ReplayBuffer

CACHED = 2  # batches: every rank asks for the same one, at about the same time
_OCTETS = "application/octet-stream"


@dataclass(slots=True)
class Presence:
    """What the API answers from; filled in while the master starts."""

    token: str
    job: RLJob | None = None
    buffer: ReplayBuffer | None = None
    build_warmup: Callable[[int], TrainingBatch] | None = None
    """The warm-up batch of a step."""
    warmup_steps: int = 0
    """How many of them the trainer has begun."""
    batches_asked: int = 0
    """How often trainer ranks have asked for a batch."""
    observe_job: Callable[[], JobState | None] = lambda: None
    """What the metrics and the page say; None: the job has not begun."""
    observe_members: Callable[[], Collection[Member]] = lambda: ()
    observe_served: Callable[[], list[ServedRecord]] = list
    """What the replay buffer does not have yet of which engine served which version when."""
    batches: dict[str, bytes] = field(default_factory=dict)
    """The last answers."""
    building: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> bool:
        """Whether this master leads and has what the trainer asks for."""
        return self.buffer is not None and self.build_warmup is not None


def build_api(presence: Presence) -> FastAPI:
    """The application; everything but /healthz, /readyz and the page without its data wants the job's bearer token."""
    application = FastAPI(title="Tandem rollout master", docs_url=None, redoc_url=None, openapi_url=None)
    bearer = HTTPBearer(auto_error=False)

    async def authorize(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if given is None or not hmac.compare_digest(given.credentials.encode(), presence.token.encode()):
            raise HTTPException(401, "this needs the job's bearer token", {"WWW-Authenticate": "Bearer"})

    @application.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process is up."""
        return {"status": "alive"}

    @application.get("/readyz")
    async def readyz() -> dict[str, str]:
        """Whether prompts are loaded and this is the leader; 503 with what it waits for until then."""
        if not presence.ready:
            raise HTTPException(503, "starting: waiting for etcd, for leadership or for the prompts")
        return {"status": "ready"}

    @application.get("/v1/batches/{iteration}", dependencies=[Depends(authorize)], response_class=Response)
    async def batch(iteration: Annotated[int, PathParameter(ge=1)]) -> Response:
        """The batch that trainer ranks train in an iteration, as safetensors; 404 until it is recorded."""
        return Response(await _batch(presence, iteration), media_type=_OCTETS)

    @application.get("/v1/warmup/{step}", dependencies=[Depends(authorize)], response_class=Response)
    async def warmup(step: Annotated[int, PathParameter(ge=0)]) -> Response:
        """The examples of a supervised step before the first iteration, as safetensors."""
        return Response(await _warmup(presence, step), media_type=_OCTETS)

    @application.get("/metrics", dependencies=[Depends(authorize)], response_class=Response)
    async def metrics() -> Response:
        """For Prometheus; docs/reference/metrics.md lists them."""
        return Response(render_metrics(presence.observe_job), media_type="text/plain; version=0.0.4; charset=utf-8")

    add_page(application, _page_source(presence), Depends(authorize))
    return application


def _page_source(presence: Presence) -> PageSource:
    def observe_summary() -> Summary | None:
        state = presence.observe_job()
        return state.summary if state is not None else None

    return PageSource(
        observe_job=lambda: presence.job,
        observe_buffer=lambda: presence.buffer,
        observe_summary=observe_summary,
        observe_members=lambda: presence.observe_members(),
        observe_served=lambda: presence.observe_served(),
    )


async def _batch(presence: Presence, iteration: int) -> bytes:
    if presence.buffer is None:
        raise HTTPException(503, "starting: the replay buffer is not open yet")
    buffer = presence.buffer
    presence.batches_asked += 1
    async with presence.building:
        name = f"batch {iteration}"
        if name not in presence.batches:
            data = await buffer.batch(iteration)
            if data is None:
                newest = await buffer.last_recorded_iteration()
                raise HTTPException(
                    404, f"there is no batch of iteration {iteration}: the newest one recorded is {newest} (0: none)"
                )
            _keep(presence, name, data)
        return presence.batches[name]


async def _warmup(presence: Presence, step: int) -> bytes:
    if presence.build_warmup is None:
        raise HTTPException(503, "starting: the prompts are not loaded yet")
    build = presence.build_warmup
    presence.warmup_steps = step + 1
    async with presence.building:
        name = f"warmup {step}"
        if name not in presence.batches:
            _keep(presence, name, await asyncio.to_thread(lambda: build(step).encode()))
        return presence.batches[name]


def _keep(presence: Presence, name: str, data: bytes) -> None:
    presence.batches[name] = data
    while len(presence.batches) > CACHED:
        del presence.batches[next(iter(presence.batches))]
