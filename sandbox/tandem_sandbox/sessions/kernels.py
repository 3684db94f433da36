"""Which Jupyter kernels an image has."""

import re
from collections.abc import Sequence

from tandem_core.sandbox.sessions import KERNEL_NAME

from tandem_sandbox.images.image import Image

PACKAGES = ("python3-ipykernel", "python3-jupyter-client")
"""Debian's packages of the kernel `python3`, and of what speaks with any kernel."""
_PLACES = ("usr/share/jupyter/kernels", "usr/local/share/jupyter/kernels")


def kernels_in(image: Image) -> Sequence[str]:
    """Names of the kernels that are installed for all users of the image."""
    found = set()
    for place in _PLACES:
        for description in image.place(place).glob("*/kernel.json"):
            if re.fullmatch(KERNEL_NAME, description.parent.name):
                found.add(description.parent.name)
    return sorted(found)
