"""The container of the checkpoint engine and its vLLM, the same in hybrid and in inference pods."""

from tandem_core.environment import CHECKPOINT_ENGINE_PORT, ENGINE_PORT
from tandem_core.job import RLJob

from tandem_operator.build.names import Component
from tandem_operator.build.pods import build_container, build_life_probes
from tandem_operator.build.settings import BuildSettings, KubernetesObject

INFERENCE_CONTAINER = "inference"


def build_sidecar(job: RLJob, settings: BuildSettings, component: Component) -> KubernetesObject:
    """The container, without its place in a pod.

    Its start-up probe asks only whether the checkpoint engine answers, not whether vLLM does: so in a hybrid pod the
    trainer starts while vLLM is still loading.
    """
    command = ["python", "-m", "tandem_sidecar"]
    if component is Component.INFERENCE:
        command += ["--role", "inference"]
    image = job.spec.images.sidecar or settings.sidecar_image
    return {
        **build_container(job, settings, component, INFERENCE_CONTAINER, image, command),
        "ports": [
            {"name": "checkpoint", "containerPort": CHECKPOINT_ENGINE_PORT},
            {"name": "engine", "containerPort": ENGINE_PORT},
        ],
        **build_life_probes(job, CHECKPOINT_ENGINE_PORT),
    }
