"""The page under /ui/, and what it reads under /v1/. Nothing here changes anything."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Query, Response
from fastapi import Path as PathParameter
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, TypeAdapter
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from tandem_core.coordination.records import Member, Summary
from tandem_core.job import RLJob, dump_job

from tandem_rollout.page.curves import build_curves
from tandem_rollout.page.engines import build_engines, build_versions
from tandem_rollout.page.live import Curves, Overview, Window
from tandem_rollout.page.timeline import build_timeline
from tandem_rollout.storage.browsing import AnswerPage, AnswerQuery, FullAnswer
from tandem_rollout.storage.errors import StorageError
from tandem_rollout.storage.history import ServedRecord
from tandem_rollout.storage.replay_buffer import ReplayBuffer

STATIC = Path(__file__).parent / "static"
PATIENCE_SECONDS = 20.0
"""How long somebody who looks waits for the replay buffer."""
MOST_ITERATIONS = 200
"""In a window of the timeline."""
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""Of the page: only its own files run, it talks to nobody but the master, and nobody frames it."""

_ITERATION = Query(ge=0, lt=2**31)
_ANSWER_PAGE, _FULL_ANSWER = TypeAdapter(AnswerPage), TypeAdapter(FullAnswer)


@dataclass(slots=True)
class PageSource:
    """Where the page's data come from."""

    observe_job: Callable[[], RLJob | None]
    observe_buffer: Callable[[], ReplayBuffer | None]
    observe_summary: Callable[[], Summary | None]
    observe_members: Callable[[], Collection[Member]]
    observe_served: Callable[[], list[ServedRecord]]
    """What the replay buffer does not have yet of which engine served which version when."""
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))
    """Those who look are served one after another: the master's own work needs the database more."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[RLJob, ReplayBuffer]]:
        """The job and its replay buffer, for a few queries. Raises HTTPException."""
        job, buffer = self.observe_job(), self.observe_buffer()
        if job is None or buffer is None:
            raise HTTPException(503, "starting: the replay buffer is not open yet")
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self.reading:
                yield job, buffer
        except TimeoutError:
            said = buffer.problem or f"the replay buffer did not answer within {PATIENCE_SECONDS:g} s"
            raise HTTPException(503, said) from None
        except StorageError as error:
            raise HTTPException(503, str(error)) from error


def add_page(application: FastAPI, source: PageSource, authorize: Any) -> None:
    """Serve the page to everybody, and its data to those whom the dependency `authorize` lets through."""
    application.include_router(_build_router(source), dependencies=[authorize])
    application.mount("/ui", _Page(directory=STATIC, html=True))

    @application.get("/", include_in_schema=False)
    async def index() -> RedirectResponse:
        return RedirectResponse("ui/")


class _Page(StaticFiles):
    """The page's files: they hold no data."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response


def _build_router(source: PageSource) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["page"])

    @router.get("/overview", response_model=Overview)
    async def overview() -> Response:
        """How the job is now."""
        async with source.open() as (job, buffer):
            extent = await buffer.extent()
        summary = source.observe_summary()
        version = summary.version if summary is not None else -1
        return _answer(
            Overview(
                job=job.metadata.name,
                iterations=summary.iterations if summary is not None else job.spec.iterations,
                live=summary is not None,
                summary=summary,
                engines=build_engines(source.observe_members(), version),
                first_iteration=extent.first,
                last_iteration=extent.last,
                changed_at=extent.changed_at,
            )
        )

    @router.get("/job", response_class=Response, responses={200: {"content": {"application/yaml": {}}}})
    async def job() -> Response:
        """The resolved RLJob, defaults written out, as YAML."""
        async with source.open() as (found, _):
            return Response(dump_job(found), media_type="application/yaml", headers={"Cache-Control": "no-store"})

    @router.get("/curves", response_model=Curves)
    async def curves(smoothing: Annotated[float, Query(ge=0, lt=1)] = 0.9) -> Response:
        """Metrics by iteration; `smoothing`: the weight of what was before in moving averages, 0 for none."""
        async with source.open() as (job, buffer):
            records, accuracies = await buffer.iterations(), await buffer.accuracies()
        summary = source.observe_summary()
        iterations = summary.iterations if summary is not None else job.spec.iterations
        return _answer(await asyncio.to_thread(build_curves, iterations, records, accuracies, smoothing))

    @router.get("/timeline", response_model=Window)
    async def timeline(first: Annotated[int, _ITERATION], last: Annotated[int, _ITERATION]) -> Response:
        """What the pods did in iterations `first` to `last`, and which engine served which version meanwhile."""
        if not first <= last < first + MOST_ITERATIONS:
            raise HTTPException(422, f"first must not be after last, nor more than {MOST_ITERATIONS} iterations before")
        async with source.open() as (_, buffer):
            activities = await buffer.activities(first, last)
            begin = min((activity.started_at for activity in activities), default=0.0)
            end = max((activity.ended_at for activity in activities), default=0.0)
            served = await buffer.served(begin, end)
        built = await asyncio.to_thread(build_timeline, activities)
        versions = build_versions([*served, *source.observe_served()], built.origin, end)
        return _answer(Window(timeline=built, versions=versions))

    @router.get("/answers", response_model=AnswerPage)
    async def answers(query: Annotated[AnswerQuery, Query()]) -> Response:
        """Scored answers, a page at a time."""
        async with source.open() as (_, buffer):
            page = await buffer.find_answers(query)
        return _json(_ANSWER_PAGE.dump_json(page))

    @router.get("/answers/{number}", response_model=FullAnswer)
    async def answer(number: Annotated[int, PathParameter(ge=0, lt=2**63)]) -> Response:
        """A scored answer, with all that is known of it."""
        async with source.open() as (_, buffer):
            found = await buffer.answer(number)
        if found is None:
            raise HTTPException(404, f"there is no scored answer with the id {number}")
        return _json(_FULL_ANSWER.dump_json(found))

    return router


def _answer(model: BaseModel) -> Response:
    return _json(model.model_dump_json().encode())


def _json(data: bytes) -> Response:
    return Response(data, media_type="application/json", headers={"Cache-Control": "no-store"})
