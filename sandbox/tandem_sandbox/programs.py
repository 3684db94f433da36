"""Programs that are ready to run: compiled once, kept for a while."""

import asyncio
import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tandem_core.errors import TandemError
from tandem_core.sandbox.messages import MEBIBYTE, Limits, Source, Verdict

from tandem_sandbox.images.image import Image
from tandem_sandbox.job import Job, JobFile, Outcome
from tandem_sandbox.languages import COMPILE_ENVIRONMENT, LANGUAGES, Language
from tandem_sandbox.pool import LanePool
from tandem_sandbox.verdicts import verdict_of

_COMPILE_LIMITS = Limits(
    cpu_seconds=60, memory_bytes=2048 * MEBIBYTE, processes=128, output_bytes=MEBIBYTE, disk_bytes=512 * MEBIBYTE
)
_MOST_CACHED_BYTES = 256 * MEBIBYTE
_SHOWN_BYTES = 16_384


class UnknownLanguage(TandemError):
    """The language, or the image, is not there."""


class CompileError(Exception):
    """The program does not compile; says what the compiler says."""


@dataclass(frozen=True, slots=True)
class Program:
    """Something that can be run many times."""

    image: Image
    language: Language
    files: Mapping[str, JobFile]

    def build_job(self, limits: Limits) -> Job:
        """A run of it; input and more are for the caller to add."""
        language = self.language
        return Job(
            command=language.run_command(limits.memory_bytes),
            limits=limits.model_copy(update={"processes": limits.processes + language.processes}),
            files=self.files,
            environment={**self.image.environment, **COMPILE_ENVIRONMENT, **language.environment},
        )

    @property
    def size_bytes(self) -> int:
        """Of all its files."""
        return sum(len(file.data) for file in self.files.values())


class Programs:
    """Makes programs of sources. Who asks for what is being compiled waits for that."""

    def __init__(self, pool: LanePool, find_image: Callable[[str | None, str | None], Image]) -> None:
        self._pool = pool
        self._find_image = find_image
        self._compiled: OrderedDict[Source, Program | CompileError] = OrderedDict()
        self._compiling: dict[Source, asyncio.Lock] = {}

    def find(self, source: Source) -> tuple[Language, Image]:
        """What it needs. Raises UnknownLanguage."""
        language = LANGUAGES.get(source.language)
        if language is None:
            raise UnknownLanguage(f"there is no language {source.language!r}: /v1/languages lists them")
        return language, self._find_image(source.image, source.language)

    async def get(self, source: Source) -> Program:
        """The program. Raises UnknownLanguage, CompileError, ContainerError."""
        language, image = self.find(source)
        if language.compile is None:
            return Program(image, language, {language.file: JobFile(source.code.encode())})
        lock = self._compiling.setdefault(source, asyncio.Lock())
        try:
            async with lock:
                known = self._compiled.get(source)
                if known is None:
                    known = self._compiled[source] = await self._compile(source, language, language.compile, image)
                    self._forget_old()
                self._compiled.move_to_end(source)
        finally:
            if not lock.locked():
                self._compiling.pop(source, None)
        if isinstance(known, CompileError):
            raise known
        return known

    async def _compile(
        self, source: Source, language: Language, command: tuple[str, ...], image: Image
    ) -> Program | CompileError:
        megabytes = str(_COMPILE_LIMITS.memory_bytes // 2 // MEBIBYTE)
        job = Job(
            command=tuple(part.replace("{memory}", megabytes) for part in command),
            limits=_COMPILE_LIMITS,
            files={language.file: JobFile(source.code.encode())},
            environment={**image.environment, **COMPILE_ENVIRONMENT, **language.environment},
            outputs=("**",),
        )
        outcome = await self._pool.run(image, job)
        verdict, detail = verdict_of(outcome, _COMPILE_LIMITS)
        if verdict != Verdict.OK:
            return CompileError(_describe(outcome, verdict, detail))
        return Program(image, language, outcome.files)

    def _forget_old(self) -> None:
        sizes = {key: value.size_bytes if isinstance(value, Program) else 0 for key, value in self._compiled.items()}
        total = sum(sizes.values()) + sum(len(source.code) for source in self._compiled)
        while total > _MOST_CACHED_BYTES and len(self._compiled) > 1:
            oldest, _ = self._compiled.popitem(last=False)
            total -= sizes[oldest] + len(oldest.code)


def _describe(outcome: Outcome, verdict: Verdict, detail: str) -> str:
    said = (outcome.stderr + outcome.stdout)[:_SHOWN_BYTES].decode(errors="replace").strip()
    return said if verdict == Verdict.RE and said else f"the compiler: {detail}\n{said}".strip()


def with_input(job: Job, stdin: bytes) -> Job:
    """The same job with this input."""
    return dataclasses.replace(job, stdin=stdin)
