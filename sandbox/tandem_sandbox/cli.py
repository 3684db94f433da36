"""The command `tandem-sandbox`: images of the sandbox, and judging by DMOJ problems."""

import argparse
import os
import sys
from pathlib import Path

from tandem_core.errors import TandemError

from tandem_sandbox.dmoj.command import add_judge, run_judge
from tandem_sandbox.images.debian import build_from_debian
from tandem_sandbox.images.oci import import_archive
from tandem_sandbox.images.store import ImageStore
from tandem_sandbox.languages import LANGUAGES, languages_in
from tandem_sandbox.settings import default_home

_FAILED = 2  # of judging, where 1 says that the program is not accepted


def main() -> int:
    """Returns the exit code."""
    given = _build_parser().parse_args()
    try:
        return run_judge(given) if given.thing == "judge" else _manage_images(given)
    except (TandemError, OSError) as error:
        print(f"tandem-sandbox: {error}", file=sys.stderr)
        return _FAILED if given.thing == "judge" else 1


def _manage_images(given: argparse.Namespace) -> int:
    store = ImageStore(given.home)
    if given.action == "list":
        _list(store)
        return 0
    if os.geteuid() != 0:
        raise TandemError("images keep the owners of their files, and so are made by root")
    if given.action == "build":
        packages = [*given.packages, *_packages_of(given.languages)]
        image = store.add(given.name, lambda root: build_from_debian(root, packages), replace=given.replace)
    else:
        image = store.add(given.name, lambda root: import_archive(root, given.archive), replace=given.replace)
    print(f"image {image.name}: {', '.join(languages_in(image)) or 'no language that is known'}")
    print("A service that runs takes it in when it is started again.")
    return 0


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tandem-sandbox", description="The code sandbox's images, and judging.")
    parser.add_argument("--home", type=Path, default=default_home(), help="the sandbox's home (TANDEM_SANDBOX_HOME)")
    things = parser.add_subparsers(dest="thing", required=True)
    add_judge(things)
    image = things.add_parser("image", help="root file systems for programs")
    actions = image.add_subparsers(dest="action", required=True)
    actions.add_parser("list", help="list images, their languages and where they come from")
    build = actions.add_parser("build", help="make an image from Debian packages, from this machine's apt sources")
    build.add_argument("name")
    build.add_argument("--languages", type=_names, default=[], help=f"separated by commas: {', '.join(LANGUAGES)}")
    build.add_argument("--packages", type=_words, default=[], help="more Debian packages, separated by commas")
    taken = actions.add_parser("import", help="make an image from an OCI archive (skopeo copy ... oci-archive:FILE)")
    taken.add_argument("name")
    taken.add_argument("archive", type=Path)
    for action in (build, taken):
        action.add_argument("--replace", action="store_true", help="in place of one with this name")
    return parser


def _list(store: ImageStore) -> None:
    for image in store.list_images():
        description = store.describe(image.name)
        print(
            f"{image.name}\t{description.created:%Y-%m-%d %H:%M}\t{description.source}\t{','.join(languages_in(image))}"
        )


def _packages_of(names: list[str]) -> list[str]:
    return [package for name in names for package in LANGUAGES[name].packages]


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _names(text: str) -> list[str]:
    names = _words(text)
    imported = [name for name in names if name in LANGUAGES and not LANGUAGES[name].packages]
    if imported:
        raise argparse.ArgumentTypeError(f"Debian has no {', '.join(imported)}: import an image that has it (--help)")
    unknown = [name for name in names if name not in LANGUAGES]
    if unknown:
        raise argparse.ArgumentTypeError(f"no language {', '.join(unknown)}: choose from {', '.join(LANGUAGES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
