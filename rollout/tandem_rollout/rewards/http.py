"""A reward model behind HTTP."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx
import tenacity
from tandem_core.job.rewards import HttpReward

from tandem_rollout.rewards.answers import AnsweredPrompt, RewardError

_ATTEMPTS = 4
_CONCURRENT_REQUESTS = 8
_OVERLOADED = 429
_SERVER_ERRORS = 500


class HttpScorer:
    """POST {"samples": [{prompt, response, answer}]} must give {"rewards": [number]}.

    Connection errors, 429 and 5xx are tried again with growing pauses; everything else raises at once.
    """

    def __init__(self, reward: HttpReward, timeout_seconds: float) -> None:
        self._url = reward.url
        self._batch_size = reward.batch_size
        self._client = httpx.AsyncClient(timeout=timeout_seconds)
        self._slots = asyncio.Semaphore(_CONCURRENT_REQUESTS)

    async def score(self, answered: Sequence[AnsweredPrompt]) -> list[float]:
        """One reward for each answer. Raises RewardError."""
        parts = [answered[start : start + self._batch_size] for start in range(0, len(answered), self._batch_size)]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._score_batch(part)) for part in parts]
        except* RewardError as errors:
            raise errors.exceptions[0] from None
        return [reward for task in tasks for reward in task.result()]

    async def close(self) -> None:
        """Close connections."""
        await self._client.aclose()

    async def _score_batch(self, answered: Sequence[AnsweredPrompt]) -> list[float]:
        samples = [{"prompt": each.prompt, "response": each.response, "answer": each.reference} for each in answered]
        try:
            async with self._slots:
                response = await self._post({"samples": samples})
            rewards = response.json()["rewards"]
        except httpx.HTTPError as error:
            raise RewardError(
                f"the reward model {self._url} cannot be reached after {_ATTEMPTS} attempts: {error!r}; check that it "
                "runs and answers within rewards.timeoutSeconds"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(self._unexpected(response.text)) from error
        if not isinstance(rewards, list) or len(rewards) != len(answered):
            raise RewardError(self._unexpected(f"{rewards!r} for {len(answered)} samples"))
        if not all(isinstance(reward, int | float) and not isinstance(reward, bool) for reward in rewards):
            raise RewardError(self._unexpected(repr(rewards)))
        return [float(reward) for reward in rewards]

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type(httpx.HTTPError),
        wait=tenacity.wait_exponential_jitter(multiplier=0.2, max=5),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    async def _post(self, body: dict[str, Any]) -> httpx.Response:
        response = await self._client.post(self._url, json=body)
        if response.status_code == _OVERLOADED or response.status_code >= _SERVER_ERRORS:
            response.raise_for_status()
        if not response.is_success:
            raise RewardError(f"the reward model {self._url} answered {response.status_code}: {response.text[:200]!r}")
        return response

    def _unexpected(self, found: str) -> str:
        return f'the reward model {self._url} must answer {{"rewards": [one number a sample]}}; found {found[:200]}'
