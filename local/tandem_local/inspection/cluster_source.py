"""Jobs on a cluster, read by kubectl; what only their pods reach, by programs that are run in them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from pydantic import ValidationError
from tandem_core.coordination.snapshot import JobSnapshot
from tandem_core.errors import TandemError
from tandem_operator.build.master import MASTER_CONTAINER
from tandem_operator.build.names import JOB_LABEL
from tandem_rollout.excerpt import EXCERPT, Excerpt
from tandem_rollout.storage.history import SampleRecord

from tandem_local.inspection.cluster_objects import (
    find_secret_names,
    parse_events,
    parse_pod,
    parse_rljob,
    select_containers,
)
from tandem_local.inspection.facts import JobFacts, PodFacts
from tandem_local.inspection.kubectl import Kubectl, KubectlFailed
from tandem_local.inspection.redaction import Redactor, list_secret_values
from tandem_local.inspection.source import Collection
from tandem_local.kubernetes_values import KubernetesObject

OWNED = "jobs,deployments,persistentvolumeclaims,resourceclaims,services"
"""What a diagnosis looks at beside the pods."""
AT_A_TIME = 8
"""Logs that are read at the same time: a job may have hundreds."""
_SNAPSHOT = ("python", "-m", "tandem_core.coordination.snapshot")
_EXCERPT = ("python", "-m", "tandem_rollout.excerpt")


class ClusterSource:
    """A JobSource."""

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def observe(self, name: str) -> JobFacts:
        """The job, its pods and Events, and what they tell of etcd and replay buffer."""
        body = self._read_job(name)
        pods = self._list_own("pods", name)
        return self._observe(body, pods)

    def list_jobs(self, *options: str) -> list[JobFacts]:
        """All jobs of the namespace; `options` such as --all-namespaces."""
        return [parse_rljob(body) for body in self._kubectl.list_objects("rljobs", *options)]

    def read_samples(self, name: str, iteration: int | None, limit: int) -> tuple[SampleRecord, ...]:
        """Asked of the master: a job whose master has ended has none to ask."""
        self._read_job(name)
        arguments = () if iteration is None else (f"--iteration={iteration}",)
        return self._read_excerpt(self._list_pods(name), f"--samples={limit}", *arguments).samples

    def list_log_commands(self, name: str, target: str | None, *options: str) -> list[list[str]]:
        """The kubectl commands that print the logs of POD[/CONTAINER], or of all the job's containers."""
        pods = self._list_pods(name)
        return [
            self._kubectl.command("logs", pod.object_name, f"--container={container}", "--prefix", *options)
            for pod, container in select_containers(pods, target, name)
        ]

    def collect(self, name: str, log_lines: int) -> Collection:
        """The job's objects, logs (of containers that were there before, too), and what `observe` tells."""
        body = self._read_job(name)
        pods = self._list_own("pods", name)
        owned, problems = self._try_list(OWNED, name)
        secrets, forbidden = self._list_secrets(name, pods)
        logs = self._read_logs([parse_pod(pod) for pod in pods], log_lines)
        facts = self._observe(body, pods, owned)
        facts = replace(
            facts,
            logs={log: tuple(text.splitlines()) for log, text in logs.items()},
            problems=(*facts.problems, *problems, *forbidden),
        )
        redactor = Redactor.of(list_secret_values([body, *pods, *owned, *secrets]))
        texts = {
            "rljob.yaml": redactor.dump(body),
            "pods.yaml": redactor.dump(*pods),
            "objects.yaml": redactor.dump(*owned),
            **{f"logs/{log}.log": text for log, text in logs.items()},
        }
        return Collection(facts, redactor, texts)

    def _observe(
        self, body: KubernetesObject, pods: Sequence[KubernetesObject], owned: Sequence[KubernetesObject] = ()
    ) -> JobFacts:
        facts, problems = parse_rljob(body), []
        events = self._kubectl.list_objects("events")
        facts = replace(
            facts,
            pods=tuple(sorted(map(parse_pod, pods), key=lambda pod: pod.object_name)),
            events=tuple(parse_events(events, facts.name, [*pods, *owned])),
        )
        if any(pod.state == "Running" for pod in facts.pods):
            try:
                facts = replace(facts, snapshot=self._read_snapshot(facts.pods))
            except TandemError as error:
                problems.append(str(error))
            try:
                facts = replace(facts, iterations=self._read_excerpt(facts.pods).iterations)
            except TandemError as error:
                problems.append(str(error))
        return replace(facts, problems=tuple(problems))

    def _read_job(self, name: str) -> KubernetesObject:
        try:
            return self._kubectl.get("rljob", name)
        except KubectlFailed as error:
            if "not found" not in str(error):
                raise
            known = ", ".join(facts.name for facts in self.list_jobs()) or "none"
            raise TandemError(
                f"there is no RLJob {name!r} in this namespace; there are: {known}. --namespace names another one"
            ) from error

    def _list_own(self, kinds: str, name: str) -> list[KubernetesObject]:
        return self._kubectl.list_objects(kinds, f"--selector={JOB_LABEL}={name}")

    def _list_pods(self, name: str) -> list[PodFacts]:
        return [parse_pod(body) for body in self._list_own("pods", name)]

    def _try_list(self, kinds: str, name: str) -> tuple[list[KubernetesObject], list[str]]:
        """The objects, and what could not be read of them: a user need not have the right to see all kinds."""
        found, problems = [], []
        for kind in kinds.split(","):
            try:
                found += self._list_own(kind, name)
            except KubectlFailed as error:
                if "the server doesn't have a resource type" not in str(error):
                    problems.append(str(error))
        return found, problems

    def _list_secrets(self, name: str, pods: Sequence[KubernetesObject]) -> tuple[list[KubernetesObject], list[str]]:
        """The Secrets that the job's pods name, so that their content can be taken out; never written anywhere."""
        names = sorted({*find_secret_names(pods), f"{name}-token", f"{name}-etcd"})
        found = []
        for secret in names:
            try:
                found.append(self._kubectl.get("secret", secret))
            except KubectlFailed as error:
                if "forbidden" in str(error).lower():
                    hint = "what they hold is taken out only where it looks like one; read the file first"
                    return found, [f"Secrets of the namespace ({hint})"]
        return found, []

    def _read_snapshot(self, pods: Sequence[PodFacts]) -> JobSnapshot:
        """From any pod that runs: all have the job's user in etcd."""
        order = {"master": 0, "inference": 1, "hybrid": 2}
        running = [pod for pod in pods if pod.state == "Running" and pod.containers]
        problem = "no pod of the job runs"
        for pod in sorted(running, key=lambda pod: order.get(pod.component, 3)):
            for container in pod.containers:
                if container.state == "running":
                    try:
                        return JobSnapshot.model_validate_json(self._execute(pod, container.name, *_SNAPSHOT))
                    except (TandemError, ValidationError) as error:
                        problem = str(error)
                        break
        raise TandemError(f"the job's state in etcd: {problem}")

    def _read_excerpt(self, pods: Sequence[PodFacts], *arguments: str) -> Excerpt:
        masters = [pod for pod in pods if pod.component == "master" and pod.state == "Running"]
        if not masters:
            raise TandemError("the replay buffer: no master runs, and it is reached from nowhere else")
        answer = self._execute(masters[0], MASTER_CONTAINER, *_EXCERPT, *arguments)
        try:
            return EXCERPT.validate_json(answer)
        except ValidationError as error:
            raise TandemError(
                f"the replay buffer: the master's version of Tandem tells it otherwise: {error}"
            ) from error

    def _execute(self, pod: PodFacts, container: str, *command: str) -> str:
        return self._kubectl.run("exec", pod.object_name, f"--container={container}", "--", *command)

    def _read_logs(self, pods: Sequence[PodFacts], lines: int) -> dict[str, str]:
        """By pod/container, and pod/container-before of those that were started again."""
        wanted: dict[str, tuple[str, ...]] = {}
        for pod in pods:
            for container in pod.containers:
                name = f"{pod.object_name}/{container.name}"
                wanted[name] = ("logs", pod.object_name, f"--container={container.name}", f"--tail={lines}")
                if container.restarts:
                    wanted[f"{name}-before"] = (*wanted[name], "--previous")
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            texts = pool.map(lambda arguments: self._try_run(*arguments), wanted.values())
            return dict(zip(wanted, texts, strict=True))

    def _try_run(self, *arguments: str) -> str:
        try:
            return self._kubectl.run(*arguments)
        except KubectlFailed as error:
            return f"{error}\n"
