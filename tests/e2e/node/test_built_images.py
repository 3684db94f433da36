"""Containers of the images that `make images` has built, with nothing of this machine's programs in them."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from tandem_core.sandbox.judging import Case, JudgeRequest, JudgeResult, TokensChecker
from tandem_core.sandbox.messages import Source, Verdict
from tandem_operator.generate.values import SANDBOX_POOL

from tools.chart import CHART, NAMESPACE, RELEASE, run_helm
from tools.cluster.built_images import PARTS, find_missing, image_name, import_built_images
from tools.cluster.cluster import Cluster, check_machine
from tools.cluster.programs import CONTROL_PLANE, HELM, NODE, ProgramsMissing, find_programs
from tools.cluster.tandem import SANDBOX, AppliedJob, Kubernetes, apply_job

from .test_sandbox_on_kubernetes import QUICK, start_asker

EXAMPLE = Path(__file__).parents[3] / "examples" / "addition.yaml"
VALUES = {
    "images": {part: image_name(part) for part in PARTS} | {"etcd": "localhost/tandem:1"},
    "operator": {"replicas": 1},
    "etcd": {"members": 1},
    "sandbox": {
        "enabled": True,
        **dict.fromkeys(("replicas", "maxReplicas"), 1),
        **dict.fromkeys(("running", "ahead"), 2),
        "resources": {"requests": {"cpu": "100m"}},
    },
}
ENFORCED = "pod-security.kubernetes.io/enforce=restricted"
ADDING = {
    "python": "print(sum(map(int, input().split())))",
    "c": '#include <stdio.h>\nint main(void) { int a, b; scanf("%d %d", &a, &b); printf("%d\\n", a + b); }',
    "cpp": "#include <iostream>\nint main() { int a, b; std::cin >> a >> b; std::cout << a + b << '\\n'; }",
}
"""Programs that are right, by language."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubernetes]:
    """A cluster of one node that has the images."""
    try:
        find_programs((*CONTROL_PLANE, *NODE, HELM))
        check_machine()
        if missing := find_missing():
            raise ProgramsMissing(f'not built: run `make images PARTS="{" ".join(missing)}"`')
    except ProgramsMissing as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"LEFT OUT, no built images on a node: {error}")
    cluster = Cluster(tmp_path_factory.mktemp("kubernetes") / "cluster")
    cluster.start(nodes=1)
    try:
        import_built_images(cluster)
        kubernetes = Kubernetes(cluster)
        kubernetes.kubectl("label", "node", "node0", "=".join(SANDBOX_POOL))
        yield kubernetes
    finally:
        cluster.stop()


def find_package(job: AppliedJob, component: str, container: str, package: str) -> str:
    """Where a running container has the package."""
    (pod,) = job.pods(component)
    script = f"import {package}; print({package}.__path__[0])"
    command = ["exec", pod["metadata"]["name"], "-c", container, "--", "python", "-c", script]
    return job.kubernetes.kubectl(*command).strip()


def test_a_job_trains_to_its_end_in_containers_of_the_built_images(built: Kubernetes, tmp_path: Path) -> None:
    for namespace in (NAMESPACE, "team"):
        built.kubectl("create", "namespace", namespace)
        built.kubectl("label", "namespace", namespace, ENFORCED)
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    arguments = ["install", RELEASE, str(CHART), f"--namespace={NAMESPACE}", f"--values={values}", "--wait"]
    done = run_helm(*arguments, "--timeout=300s", kubeconfig=built.cluster.kubeconfig)
    assert done.returncode == 0, f"{done.stderr}\n{built.describe()}"

    short = {"iterations": 100, "warmup__steps": 40, "evaluation__prompts": 64, "security__tls": True}
    job = apply_job(replace(built, namespace="team"), EXAMPLE, "addition", **short)
    job.wait_for_iteration(1, 600)
    containers = {"master": ("master", "rollout"), "trainer": ("hybrid", "trainer"), "inference": ("hybrid", "sidecar")}
    for container, (component, part) in containers.items():
        assert find_package(job, component, container, f"tandem_{part}").startswith("/opt/tandem/")
    job.wait_for_condition("Complete", 900)
    assert job.status["iteration"] == short["iterations"]


def test_the_sandbox_judges_programs_by_the_compilers_of_its_image(built: Kubernetes) -> None:
    sandbox = replace(built, namespace=SANDBOX)
    right = [Source(language=language, code=code) for language, code in ADDING.items()]
    request = JudgeRequest(
        programs=(*right, Source(language="python", code="print(3)")),
        cases=(Case(stdin="1 2", expected="3"), Case(stdin="2 3", expected="5")),
        checker=TokensChecker(),
        limits=QUICK,
    )
    judged = JudgeResult.model_validate_json(start_asker(sandbox).ask("/v1/judge", request))
    verdicts = [[case.verdict for case in program.cases] for program in judged.programs]
    assert verdicts == [*[[Verdict.OK, Verdict.OK]] * len(ADDING), [Verdict.OK, Verdict.WA]], judged
