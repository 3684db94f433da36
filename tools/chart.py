"""`python -m tools.chart`: writes manifests/ from the Helm chart, or with --check says which files are out of date."""

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from .cluster.programs import HELM, ProgramsMissing, build_programs, find_programs

ROOT = Path(__file__).parent.parent
CHART = ROOT / "helm" / "tandem"
RELEASE = "tandem"
NAMESPACE = "tandem-system"
TRIAL = ("etcd.members=1", "etcd.authentication=false", "etcd.tls.source=none")
"""Certificates and passwords are made at installation: plain YAML has none."""
SANDBOX = ("sandbox.enabled=true", "sandbox.tokenSecret=tandem-sandbox")
"""A token that is published is none."""
HEADER = "# Generated from helm/tandem by `python -m tools.chart`: do not edit; write a kustomization over it.\n"
_SOURCE = re.compile(r"^# Source: tandem/templates/(?P<part>\w+)[/.].*\n", re.MULTILINE)
_NAMESPACE = f"""apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
"""


def run_helm(*arguments: str, kubeconfig: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """helm, which may fail. Raises ProgramsMissing if it is not built."""
    program = find_programs((HELM,)) / HELM.file_name
    environment = os.environ | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False, env=environment)


def render_chart(settings: Sequence[str] = (), *arguments: str) -> str:
    """The objects that `helm install` would make, as YAML. Raises ValueError with helm's message."""
    sets = [f"--set={setting}" for setting in settings]
    done = run_helm("template", RELEASE, str(CHART), f"--namespace={NAMESPACE}", *sets, *arguments)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return done.stdout


def render_manifests() -> dict[str, str]:
    """Content by path below manifests/: an installation for trials, and the sandbox, which is applied by itself."""
    installation = {"namespace": _NAMESPACE, **_render_parts(TRIAL)}
    sandbox = {"sandbox": _render_parts((*TRIAL, *SANDBOX))["sandbox"]}
    return _write_folder("", installation) | _write_folder("sandbox/", sandbox)


def _render_parts(settings: Sequence[str]) -> dict[str, str]:
    """YAML by the folder of the chart's templates that it comes from."""
    parts: dict[str, str] = {}
    for text in render_chart(settings, "--skip-tests").split("\n---\n"):
        text = text.removeprefix("---\n")
        if (found := _SOURCE.match(text)) and (body := text[found.end() :].strip("\n")):
            parts[found["part"]] = "\n---\n".join(each for each in (parts.get(found["part"], ""), body) if each)
    return parts


def _write_folder(folder: str, parts: Mapping[str, str]) -> dict[str, str]:
    """Files that `kubectl apply -k` takes together."""
    files = {f"{part}.yaml": f"{HEADER}{body.strip()}\n" for part, body in parts.items()}
    kustomization = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources:\n"
    files |= {"kustomization.yaml": HEADER + kustomization + "".join(f"- {name}\n" for name in files)}
    return {f"{folder}{name}": text for name, text in files.items()}


def main() -> int:
    """Exit code: 1 if --check found a file that differs from what would be written."""
    parser = argparse.ArgumentParser(prog="python -m tools.chart", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a file is out of date")
    options = parser.parse_args()
    try:
        build_programs((HELM,))
    except ProgramsMissing as error:
        print(f"LEFT OUT, no helm: {error}", file=sys.stderr)
        return 1 if os.environ.get("CI") or not options.check else 0
    stale = 0
    for name, text in render_manifests().items():
        file = ROOT / "manifests" / name
        if file.exists() and file.read_text() == text:
            continue
        stale = 1
        if options.check:
            print(f"manifests/{name} is out of date: run `make generate`", file=sys.stderr)
        else:
            file.write_text(text)
            print(f"wrote manifests/{name}")
    return stale if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
