"""The test cluster: a real Kubernetes on this machine, in namespaces of its own. See docs/test-cluster.md."""

import argparse
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from .built_images import PARTS, import_built_images
from .cluster import Cluster, ClusterError
from .control_plane import serve_control_plane
from .programs import CONTROL_PLANE, HELM, NODE, ProgramsMissing, build_programs, find_programs

DIRECTORY_VARIABLE = "TANDEM_CLUSTER_DIR"


def _cluster() -> Cluster:
    return Cluster(Path(os.environ.get(DIRECTORY_VARIABLE) or Path.home() / ".tandem" / "cluster"))


def _build(arguments: argparse.Namespace) -> None:
    print(f"Kubernetes' programs are in {build_programs()}")


def _up(arguments: argparse.Namespace) -> None:
    programs, started, cluster = build_programs(), time.monotonic(), _cluster()
    cluster.start(arguments.nodes, arguments.gpus)
    print(f"Ready after {time.monotonic() - started:.1f} s. To use it:\n")
    print(f"    export KUBECONFIG={cluster.kubeconfig} PATH={programs}:$PATH\n    kubectl get nodes\n")
    print("`make cluster-down` ends it.")


def _down(arguments: argparse.Namespace) -> None:
    _cluster().stop()


def _images(arguments: argparse.Namespace) -> None:
    cluster = _cluster()
    import_built_images(cluster, len(list(cluster.directory.glob("node?"))), arguments.parts or PARTS)


def _kubectl(arguments: argparse.Namespace) -> None:
    program = find_programs(CONTROL_PLANE + NODE) / "kubectl"
    os.execv(program, [str(program), "--kubeconfig", str(_cluster().kubeconfig), *arguments.arguments])  # noqa: S606


def _helm(arguments: argparse.Namespace) -> None:
    program = find_programs((HELM,)) / HELM.file_name
    environment = os.environ | {"KUBECONFIG": str(_cluster().kubeconfig)}
    os.execve(program, [str(program), *arguments.arguments], environment)  # noqa: S606


def _control_plane(arguments: argparse.Namespace) -> None:
    build_programs(CONTROL_PLANE)
    with serve_control_plane() as kubeconfig:
        print(f"export KUBECONFIG={kubeconfig}   # until this program ends (Ctrl-C)", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build all programs into the cache; at once when they are there")
    up = commands.add_parser("up", help="start a cluster and return when its nodes are ready")
    up.add_argument("--nodes", type=int, default=1)
    up.add_argument("--gpus", type=int, default=2, help="fake GPUs of each node")
    down = commands.add_parser("down", help="end the cluster and remove all that it made")
    images = commands.add_parser("images", help="bring images that `make images` has built to the running cluster")
    images.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    kubectl = commands.add_parser("kubectl", help="kubectl with the running cluster")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER)
    helm = commands.add_parser("helm", help="helm with the running cluster")
    helm.add_argument("arguments", nargs=argparse.REMAINDER)
    plane = commands.add_parser("control-plane", help="an API server with its controllers, without a node")
    build.set_defaults(function=_build)
    up.set_defaults(function=_up)
    down.set_defaults(function=_down)
    images.set_defaults(function=_images)
    kubectl.set_defaults(function=_kubectl)
    helm.set_defaults(function=_helm)
    plane.set_defaults(function=_control_plane)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        arguments.function(arguments)
    except (ProgramsMissing, ClusterError, TimeoutError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
