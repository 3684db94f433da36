"""Makes a version exist: all ranks have attested parts that fit together, and the master commits."""

import asyncio
import time
from collections.abc import Collection

import structlog
from tandem_core.coordination.keys import JobKeys
from tandem_core.coordination.mirror import Mirror
from tandem_core.coordination.store import Store
from tandem_core.weights.manifest import Commit, ManifestPart
from tandem_core.weights.merge import Manifest, ManifestError, merge_parts

log = structlog.get_logger()


async def observe_manifest(store: Store, keys: JobKeys, version: int, timeout_seconds: float) -> Manifest:
    """The manifest of a version whose ranks have all acknowledged its publication.

    If the trainer started anew in between, parts of both starts are there for a while: they are waited for. Raises
    ManifestError if the parts still do not fit together after `timeout_seconds`.
    """
    prefix = keys.manifest_parts(version)
    parts = await store.list_prefix(prefix, ManifestPart)
    try:
        return await asyncio.to_thread(merge_parts, list(parts.values()))
    except ManifestError as error:
        log.warning("the manifest parts do not fit together yet, waiting", version=version, reason=str(error))
        problem = error
    async with Mirror(store, prefix, ManifestPart) as mirror:
        try:
            async with asyncio.timeout(timeout_seconds):
                while True:
                    try:
                        return merge_parts(list(mirror.values.values()))
                    except ManifestError as error:
                        problem = error
                    await mirror.next_change()
        except TimeoutError:
            raise problem from None


def build_commit(manifest: Manifest, token: int) -> Commit:
    """The record that makes the version exist."""
    return Commit(
        version=manifest.version,
        world_size=len(manifest.ranks),
        incarnation=manifest.incarnation,
        token=token,
        size_bytes=manifest.size_bytes,
        committed_at=time.time(),
    )


def old_prefixes(keys: JobKeys, version: int) -> Collection[str]:
    """What nobody needs once `version` is committed: earlier acknowledgements, and versions before the last two."""
    iteration = version - 1
    prefixes = [keys.acks(iteration)] if iteration >= 0 else []
    return [*prefixes, *([keys.version(version - 2)] if version >= 2 else [])]
