"""A version is served whole or not at all: real master, etcd and engine, ranks that die, lie and are late."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from structlog.testing import capture_logs
from tandem_core.weights.manifest import ManifestPart

from .published_job import PublishedJob, start_job
from .sidecar_pod import HEADERS, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def job(tmp_path_factory: pytest.TempPathFactory, etcd_endpoint: str) -> AsyncIterator[PublishedJob]:
    with tempfile.TemporaryDirectory(prefix="tandem-fail-stop-", dir="/dev/shm") as shm_dir:
        async with start_job(tmp_path_factory.mktemp("job"), Path(shm_dir), etcd_endpoint) as job:
            yield job


async def test_a_rank_that_is_killed_while_it_publishes_leaves_the_old_version_in_service(job: PublishedJob) -> None:
    job.start_ranks(replicated=False)
    version = await job.next_publication()
    await job.attest(job.write(0, version))
    await job.die_while_publishing(1, version)
    await job.assert_still(version - 1)
    job.start_ranks(replicated=False)
    await job.publish(version)
    await job.serving(version)


async def test_a_rank_that_is_late_keeps_the_old_version_in_service(job: PublishedJob) -> None:
    job.start_ranks(replicated=False)
    version = await job.next_publication()
    await job.attest(job.write(0, version))
    part = job.write(1, version)
    await job.assert_still(version - 1)
    await job.attest(part)
    await job.serving(version)


async def test_replicas_that_attest_different_bytes_are_not_committed(job: PublishedJob) -> None:
    job.start_ranks(replicated=True)
    version = await job.next_publication()
    part = job.write(0, version)
    with capture_logs() as logs:
        await job.attest(part)
        await job.attest(attest_wrongly(job.write(1, version)))
        await wait_until(lambda: [entry for entry in logs if "replicas must hold the same" in str(entry)])
    await job.assert_still(version - 1)
    await job.attest(job.write(1, version))
    await job.serving(version)


async def test_bytes_that_are_not_what_their_only_rank_attested_are_never_served(job: PublishedJob) -> None:
    job.start_ranks(replicated=False)
    version = await job.next_publication()
    await job.attest(job.write(0, version))
    part = attest_wrongly(job.write(1, version))
    await job.attest(part)
    wrong = f"version {version}, tensor {part.slices[0].name}"
    # As often as ends a process that has nothing to lose: this one still serves.
    await wait_until(lambda: job.inference.log().count(wrong) > 3)
    await job.check_answers()
    await job.wait_for_answers(4)
    assert await job.check_answers() == {version - 1}
    following = await job.next_publication()
    await job.publish(following)
    await job.serving(following)


async def test_a_wrong_byte_is_fetched_again_from_a_replica(job: PublishedJob) -> None:
    job.start_ranks(replicated=True)
    version = await job.next_publication()
    parts = [job.write(rank, version) for rank in (0, 1)]
    # One of a tensor's two copies is wrong here, the other one there: whichever is asked first.
    for part, piece in zip(parts, parts[0].slices[:2], strict=True):
        flip_bit(job.places[part.rank].shm_dir / part.file, piece.offset)
    for part in parts:
        await job.attest(part)
    await job.serving(version)
    assert "taking a slice from another replica" in job.inference.log()
    await job.wait_for_answers(4)
    assert version in await job.check_answers()
    async with httpx.AsyncClient(base_url=job.inference.url, headers=HEADERS, timeout=60) as client:
        again = (await client.post(f"/v1/weights/{version}/load")).json()
    assert again["refetched_bytes"] in {piece.size_bytes for piece in parts[0].slices[:2]}


async def test_every_answer_in_fifty_updates_is_of_one_version(job: PublishedJob) -> None:
    await job.check_answers()
    job.start_ranks(replicated=False)
    versions = set()
    for _ in range(50):
        version = await job.next_publication()
        await job.publish(version)
        await job.serving(version)
        await job.wait_for_answers(1)
        versions.add(version)
    seen = await job.check_answers()
    assert len(seen & versions) > 40


def attest_wrongly(part: ManifestPart) -> ManifestPart:
    """The part with another checksum for the first of its slices."""
    first = part.slices[0].model_copy(update={"checksum": "0" * 16})
    return part.model_copy(update={"slices": (first, *part.slices[1:])})


def flip_bit(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
