"""`python -m tools.cluster`: the test cluster's command line."""

import argparse
import signal
import sys
from contextlib import suppress

from .control_plane import serve_control_plane
from .programs import CONTROL_PLANE, ProgramsMissing, build_programs


def _build(arguments: argparse.Namespace) -> None:
    print(f"Kubernetes' programs are in {build_programs()}")


def _control_plane(arguments: argparse.Namespace) -> None:
    build_programs(CONTROL_PLANE)
    with serve_control_plane() as kubeconfig:
        print(f"export KUBECONFIG={kubeconfig}   # until this program ends (Ctrl-C)", flush=True)
        with suppress(KeyboardInterrupt):
            signal.pause()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.cluster", description=__doc__)
    commands = parser.add_subparsers(required=True)
    for name, function, text in (
        ("build", _build, "build all programs into the cache; at once when they are there"),
        ("control-plane", _control_plane, "an API server with its controllers on free ports, without a node"),
    ):
        commands.add_parser(name, help=text).set_defaults(function=function)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        arguments.function(arguments)
    except (ProgramsMissing, TimeoutError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
