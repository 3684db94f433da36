"""Keeps prompts outside vLLM until its weights are the committed ones: it runs inside vLLM (--middleware).

vLLM takes prompts as soon as it is up, on dummy weights, and /wake_up lets waiting ones run on whatever memory
holds. The gate is closed from the start, and opens only after an update whose probe was right. It also pauses and
updates vLLM, each in one request: vLLM's own endpoints take six, and its /pause sleeps for 20 ms.
"""

import asyncio
import json
import math
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from tandem_sidecar.engine_auth import Application, Receive, Scope, Send, answer_json
from tandem_sidecar.timeline import Timeline

PAUSE_PATH, RESUME_PATH, LOAD_PATH = "/tandem/pause", "/tandem/resume", "/tandem/load"
"""What the checkpoint engine posts to the gate; LOAD_PATH takes ?path= of the load file and &version=."""
CONTROL_PATHS = frozenset({"/init_weight_transfer_engine", "/sleep", "/wake_up"})
"""What it posts to vLLM itself; everything else that is posted waits for the gate."""
PAUSE_SECONDS = 20.0
"""Aborting takes 3 ms: an engine that needs this long hangs, and the trainer waits for its memory."""
PROBE_SECONDS = 60.0
LATECOMER_SECONDS = 0.02
"""A request that reaches the scheduler after all were aborted waits there: it is aborted after this time."""
PROBE_TOKENS = [1, 2, 3]
"""Any tokens do; every vocabulary has these."""


class EngineGate:
    """ASGI middleware: requests that arrive while the gate is closed wait until it opens."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._open = asyncio.Event()
        self._inside = 0
        self._empty = asyncio.Event()
        self._actions: dict[str, Callable[..., Awaitable[None]]] = {
            PAUSE_PATH: self._pause,
            RESUME_PATH: self._resume,
            LOAD_PATH: self._load,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"] in self._actions:
            await self._carry_out(scope, send)
        elif _is_prompt(scope):
            await self._let_in(scope, receive, send)
        else:
            await self._application(scope, receive, send)

    async def _let_in(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self._open.is_set():
            await self._open.wait()
        self._inside += 1
        try:
            await self._application(scope, receive, send)
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def _carry_out(self, scope: Scope, send: Send) -> None:
        """Answer with the parts of the action: a list of Activity."""
        timeline = Timeline()
        try:
            action = self._actions[scope["path"]]
            await action(scope["app"].state.engine_client, timeline, **dict(parse_qsl(scope["query_string"].decode())))
        except Exception as error:  # whatever it was, the checkpoint engine has to know
            reason = f"{type(error).__name__}: {error}"
            await answer_json(send, 500, json.dumps({"error": reason}).encode())
        else:
            await answer_json(send, 200, json.dumps([part.model_dump() for part in timeline.take()]).encode())

    async def _pause(self, engine: Any, timeline: Timeline) -> None:
        """Close, answer requests with what they have, and empty the prefix cache: other weights make other keys."""
        with timeline.measure("pause"):
            self._open.clear()
            async with asyncio.timeout(PAUSE_SECONDS):
                while True:
                    await engine.engine_core.pause_scheduler_async(mode="abort", clear_cache=True)
                    if await self._is_empty(LATECOMER_SECONDS):
                        return

    async def _resume(self, engine: Any, _: Timeline) -> None:
        await engine.resume_generation()
        self._open.set()

    async def _load(self, engine: Any, timeline: Timeline, *, path: str, version: str) -> None:
        """Replace the weights by those that the load file names, try them, and open."""
        await self._pause(engine, timeline)
        with timeline.measure("update"):
            await engine.start_weight_update()
            await engine.collective_rpc("update_weights", kwargs={"update_info": {"path": path}})
            await engine.finish_weight_update(version)
        with timeline.measure("probe"):
            await engine.resume_generation()
            async with asyncio.timeout(PROBE_SECONDS):
                await _probe(engine, version)
        self._open.set()

    async def _is_empty(self, seconds: float) -> bool:
        """Whether all requests have been answered, if need be after `seconds`."""
        if self._inside:
            self._empty.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._empty.wait(), seconds)
        return not self._inside


def _is_prompt(scope: Scope) -> bool:
    """Whether it has to wait for weights."""
    if scope["type"] == "http":
        return scope["method"] == "POST" and scope["path"] not in CONTROL_PATHS
    return scope["type"] != "lifespan"


async def _probe(engine: Any, version: str) -> None:
    """Generate a token; raises ValueError unless its log-prob is a number and `version` made them."""
    from vllm import SamplingParams  # the checkpoint engine imports this module too, and no vLLM

    sampling = SamplingParams(max_tokens=1, temperature=0.0, logprobs=0, ignore_eos=True, detokenize=False)
    prompt = {"prompt_token_ids": PROBE_TOKENS}
    outputs = [output async for output in engine.generate(prompt, sampling, f"probe-{uuid.uuid4().hex}")]
    answer = outputs[-1].outputs[0]
    logprobs = [entry.logprob for position in answer.logprobs or () for entry in position.values()]
    problem = find_probe_problem(logprobs, {span.version for span in answer.weight_versions or ()}, version)
    if problem:
        raise ValueError(f"after loading version {version}: {problem}")


def find_probe_problem(logprobs: Sequence[float | None], versions: Collection[str], version: str) -> str:
    """What is wrong with the tokens of a probe: their log-probs and the versions that made them; empty: nothing."""
    if not logprobs or any(value is None or not math.isfinite(value) for value in logprobs):
        return f"log-probs should be finite numbers, found {logprobs}: the weights are damaged"
    if set(versions) != {version}:
        return f"the tokens should be of version {version}, found {sorted(versions) or 'none'}"
    return ""
