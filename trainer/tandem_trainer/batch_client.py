"""Fetching recorded batches from the rollout master."""

import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

import httpx
import structlog
from tandem_core.batches import TrainingBatch
from tandem_core.errors import TandemError
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential_jitter

log = structlog.get_logger()

_HTTP_TIMEOUT = httpx.Timeout(120.0, connect=5.0)


class BatchUnavailable(TandemError):
    """The master did not hand out a batch."""


class _MasterAway(Exception):
    """To be tried again."""


class BatchClient:
    """A context manager around one HTTP connection; asks again while the master restarts."""

    def __init__(self, find_master: Callable[[], str], token: str, trust: ssl.SSLContext | None = None) -> None:
        """`find_master` gives the master's present http(s)://address:port, or an empty string; `trust` is for https."""
        self._find_master = find_master
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"},
            timeout=_HTTP_TIMEOUT,
            verify=trust or True,
            # A server that ends waits until encrypted connections are closed at both ends: none is kept.
            limits=httpx.Limits(max_keepalive_connections=None if trust is None else 0),
            trust_env=False,  # proxies of the environment are not meant for addresses inside the job
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def fetch_batch(self, iteration: int, timeout_seconds: float) -> TrainingBatch:
        """The recorded batch of the iteration; raises BatchUnavailable."""
        batch = self._fetch(f"/v1/batches/{iteration}", timeout_seconds)
        if batch.iteration != iteration:
            raise BatchUnavailable(f"the master gave the batch of iteration {batch.iteration} for {iteration}")
        return batch

    def fetch_warmup(self, step: int, timeout_seconds: float) -> TrainingBatch:
        """The examples of a step of the warm-up; raises BatchUnavailable."""
        return self._fetch(f"/v1/warmup/{step}", timeout_seconds)

    def _fetch(self, path: str, timeout_seconds: float) -> TrainingBatch:
        try:
            for attempt in Retrying(
                retry=retry_if_exception_type((_MasterAway, httpx.TransportError)),
                stop=stop_after_delay(timeout_seconds),
                wait=wait_exponential_jitter(multiplier=0.02, max=2.0),
                before_sleep=_log_attempt,
                reraise=True,
            ):
                with attempt:
                    return TrainingBatch.decode(self._get(path))
        except (_MasterAway, httpx.TransportError) as error:
            raise BatchUnavailable(
                f"the master did not answer {path} for {timeout_seconds:.0f} s ({error or type(error).__name__}): look "
                "at the master's log; if it only needs longer, raise spec.deadlines"
            ) from error
        raise AssertionError("tenacity returns or raises")

    def _get(self, path: str) -> bytes:
        master = self._find_master()
        if not master:
            raise _MasterAway("no master is registered")
        response = self._http.get(master + path)
        if response.status_code == httpx.codes.OK:
            return response.content
        if response.is_server_error or response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            raise _MasterAway(f"{master} answers {response.status_code}")
        if response.status_code == httpx.codes.NOT_FOUND:
            raise BatchUnavailable(
                f"the master at {master} has no {path}: {response.text[:200]}. Its replay buffer was lost, or is "
                "another run's: restore it, or start again with an empty checkpoint directory"
            )
        raise BatchUnavailable(
            f"the master at {master} answers {path} with {response.status_code}: {response.text[:200]}"
        )


def _log_attempt(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    log.warning("master does not answer, asking again", attempt=state.attempt_number, error=str(error))
