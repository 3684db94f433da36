"""The `kubectl` program, which knows how to sign in wherever its user can."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from tandem_core.errors import TandemError

from tandem_local.kubernetes_values import KubernetesObject

PROGRAM = "kubectl"
TIMEOUT_SECONDS = 60.0


class KubectlFailed(TandemError):
    """kubectl is not there, did not answer in time, or says what is wrong."""


@dataclass(frozen=True)
class Kubectl:
    """Calls it with the same namespace, context and kubeconfig each time."""

    options: tuple[str, ...] = ()
    """Such as --namespace=team-a; what is left out is as kubectl itself would have it."""
    program: str = PROGRAM

    def command(self, *arguments: str) -> list[str]:
        """The whole command line. Raises KubectlFailed if the program is not there."""
        path = shutil.which(self.program)
        if path is None:
            raise KubectlFailed(f"{self.program} is not on the PATH: install it, as jobs on a cluster are read by it")
        return [path, *self.options, *arguments]

    def run(self, *arguments: str, timeout_seconds: float = TIMEOUT_SECONDS) -> str:
        """What it prints. Raises KubectlFailed."""
        shown = " ".join((self.program, *arguments))
        try:
            done = subprocess.run(  # noqa: S603 - the user's own kubectl
                self.command(*arguments),
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired as error:
            raise KubectlFailed(f"{shown}: no answer within {timeout_seconds:.0f} s") from error
        if done.returncode != 0:
            raise KubectlFailed(f"{shown}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        return done.stdout

    def get(self, *arguments: str) -> KubernetesObject:
        """An object, or a List. Raises KubectlFailed."""
        answer: Any = json.loads(self.run("get", *arguments, "--output=json"))
        return dict(answer)

    def list_objects(self, *arguments: str) -> list[KubernetesObject]:
        """The objects of a List. Raises KubectlFailed."""
        return list(self.get(*arguments)["items"])
