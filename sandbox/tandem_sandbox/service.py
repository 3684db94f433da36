"""The service without HTTP: images, containers, programs and judgements together."""

import asyncio
import dataclasses
import platform
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from tandem_core.errors import TandemError
from tandem_core.sandbox.judging import JudgeRequest, JudgeResult
from tandem_core.sandbox.messages import (
    File,
    Holding,
    LanguageDescription,
    LanguageList,
    RunRequest,
    RunResult,
    Verdict,
)
from tandem_core.sandbox.sessions import SessionDescription, SessionRequest

from tandem_sandbox.control_group import Groups
from tandem_sandbox.images.host_image import make_host_image
from tandem_sandbox.images.image import Image
from tandem_sandbox.images.store import ImageStore
from tandem_sandbox.job import ContainerError, Job, JobFile, Outcome
from tandem_sandbox.judging import Judge
from tandem_sandbox.lane import Lane
from tandem_sandbox.languages import COMPILE_ENVIRONMENT, LANGUAGES, languages_in
from tandem_sandbox.mounts import SAFE, mount
from tandem_sandbox.pool import LanePool
from tandem_sandbox.programs import CompileError, Programs, UnknownLanguage
from tandem_sandbox.runtime import Runtime, show_read_only
from tandem_sandbox.seccomp import build_seccomp
from tandem_sandbox.sessions.kernels import PACKAGES, kernels_in
from tandem_sandbox.sessions.sessions import Sessions
from tandem_sandbox.settings import Settings
from tandem_sandbox.verdicts import verdict_of


class Service:
    """`async with Service.open(settings, groups) as service`."""

    def __init__(
        self,
        settings: Settings,
        pool: LanePool,
        sessions: Sessions,
        images: Sequence[Image],
        holds: Mapping[str, Holding],
    ) -> None:
        self.sessions = sessions
        self._images = images
        self.holds = holds
        self.pool = pool
        self._programs = Programs(pool, self.find_image)
        self._judge = Judge(pool, self._programs, settings.running)

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings, groups: Groups) -> AsyncIterator[Self]:
        """Make the lanes, and have containers wait. In the service's own namespaces. Raises TandemError, OSError."""
        groups.prepare()
        settings.run_folder.mkdir(parents=True, exist_ok=True)
        mount("tmpfs", settings.run_folder, "tmpfs", SAFE, "mode=711")
        images = await asyncio.to_thread(_load_images, settings)
        seccomp = build_seccomp(platform.machine(), control_groups=not settings.unprivileged)
        runtime = Runtime(settings.runtime, settings.run_folder / "runtime", seccomp, settings.runtime_group_name)
        runtime.state_folder.mkdir(mode=0o700)
        found = shutil.which(settings.runtime)
        if settings.runtime == "crun" and not settings.unprivileged and found is not None:
            runtime.path = show_read_only(found, settings.run_folder / "crun")
        single = settings.running + settings.ahead
        lanes = [
            Lane.make(
                number, settings, runtime, groups.create(f"lane-{number}" if number < single else f"session-{number}")
            )
            for number in range(single + settings.sessions)
        ]
        async with LanePool(lanes[:single], settings.running) as pool, Sessions(lanes[single:], pool) as sessions:
            try:
                await pool.warm(images[0])
            except ContainerError as error:
                raise TandemError(str(error)) from error
            yield cls(settings, pool, sessions, images, groups.holds)

    def find_image(self, name: str | None, language: str | None) -> Image:
        """The image of this name, or the first one that has the language. Raises UnknownLanguage."""
        for image in self._images:
            if (name is None or image.name == name) and (language is None or LANGUAGES[language].is_in(image)):
                return image
        if name is not None and all(image.name != name for image in self._images):
            known = ", ".join(image.name for image in self._images)
            raise UnknownLanguage(f"there is no image {name!r}; there are {known}")
        where = f"image {name} has" if name else "no image has"
        raise UnknownLanguage(f"{where} no {language}: build one with `tandem-sandbox image build`")

    async def make_session(self, request: SessionRequest) -> SessionDescription:
        """Start a kernel. Raises UnknownLanguage, KernelError, SessionsFull, ContainerError."""
        for image in self._images:
            if request.image in (None, image.name) and request.kernel in kernels_in(image):
                return await self.sessions.make(image, request)
        where = f"image {request.image} has" if request.image else "no image has"
        raise UnknownLanguage(
            f"{where} no Jupyter kernel {request.kernel}: build one as root with `tandem-sandbox image build notebooks "
            f"--packages {','.join(PACKAGES)}` (and Debian's packages of other kernels), and start the service again"
        )

    def list_languages(self) -> LanguageList:
        """All languages that an image has."""
        having = {image.name: set(languages_in(image)) for image in self._images}
        kernels = {image.name: kernels_in(image) for image in self._images}
        return LanguageList(
            languages=tuple(
                LanguageDescription(name=name, images=images, compiled=language.compile is not None)
                for name, language in sorted(LANGUAGES.items())
                if (images := tuple(image for image, names in having.items() if name in names))
            ),
            limits=self.holds,
            kernels={
                kernel: tuple(image for image, names in kernels.items() if kernel in names)
                for kernel in sorted(set().union(*kernels.values()))
            },
        )

    async def judge(self, request: JudgeRequest) -> JudgeResult:
        """Judge programs. Raises UnknownLanguage; CompileError and ContainerError of a checker."""
        return await self._judge.judge(request)

    async def run(self, request: RunRequest) -> RunResult:
        """Run a program or command once. Raises UnknownLanguage."""
        try:
            image, job = await self._plan_run(request)
            outcome = await self.pool.run(image, job)
        except CompileError as error:
            return RunResult(verdict=Verdict.CE, detail="it does not compile", stderr=str(error))
        except ContainerError as error:
            return RunResult(verdict=Verdict.IE, detail=str(error))
        return _build_result(outcome, job)

    async def _plan_run(self, request: RunRequest) -> tuple[Image, Job]:
        if request.source is not None:
            program = await self._programs.get(request.source)
            image, job = program.image, program.build_job(request.limits)
        else:
            image = self.find_image(request.image, None)
            environment = {**image.environment, **COMPILE_ENVIRONMENT}
            job = Job(request.command or (), request.limits, environment=environment)
        return image, dataclasses.replace(
            job,
            command=(*job.command, *request.arguments),
            files={**{path: JobFile(file.data, file.executable) for path, file in request.files.items()}, **job.files},
            stdin=request.stdin.encode(),
            environment={**job.environment, **request.environment},
            outputs=request.outputs,
        )


def _load_images(settings: Settings) -> list[Image]:
    images = ImageStore(settings.home).list_images()
    if settings.host_image:
        folder = settings.run_folder / "images"
        folder.mkdir()
        images.append(make_host_image(Path(folder)))
    if not images:
        raise TandemError("there are no images: build one with `tandem-sandbox image build`, or say --host-image")
    return images


def _build_result(outcome: Outcome, job: Job) -> RunResult:
    verdict, detail = verdict_of(outcome, job.limits)
    return RunResult(
        verdict=verdict,
        detail=detail,
        exit_code=outcome.exit_code,
        stdout=outcome.stdout.decode(errors="replace"),
        stderr=outcome.stderr.decode(errors="replace"),
        cpu_seconds=outcome.cpu_seconds,
        wall_seconds=outcome.wall_seconds,
        memory_bytes=outcome.memory_bytes,
        files={path: File.of(file.data, executable=file.executable) for path, file in outcome.files.items()},
        left_out=outcome.left_out,
    )
