"""Reading what Kubernetes objects say: an index of the job's objects, and $(NAME) references. Pure."""

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tandem_core.errors import TandemError

type KubernetesObject = dict[str, Any]
"""A Kubernetes object, or a part of one, as in its YAML."""

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_][\w.-]*)\)")


class UnsupportedObject(TandemError):
    """Something in a pod's template that has no counterpart on one machine."""


@dataclass(frozen=True)
class ObjectIndex:
    """The job's ConfigMaps, Secrets and claim templates by kind and name."""

    objects: Mapping[tuple[str, str], KubernetesObject]

    @classmethod
    def of(cls, objects: Sequence[KubernetesObject]) -> "ObjectIndex":
        """An index of `objects`."""
        return cls({(item["kind"], item["metadata"]["name"]): item for item in objects})

    def data(self, kind: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """The entries of a ConfigMap or Secret; raises UnsupportedObject if it is none of the job's own."""
        found = self.objects.get((kind, name))
        if found is None:
            if optional:
                return {}
            raise UnsupportedObject(
                f"{kind} {name!r} is not one of the job's own objects: remove what refers to it from the job file "
                f"(storage.urlSecret, or an overlay in spec.pods). A Secret can also be put on this machine, as files "
                f"in $TANDEM_HOME/secrets/{name}/ named by their keys"
            )
        entries = {key: text.encode() for key, text in {**found.get("data", {}), **found.get("stringData", {})}.items()}
        if kind == "Secret":
            entries |= {key: base64.b64decode(text) for key, text in found.get("data", {}).items()}
        return entries | {key: base64.b64decode(text) for key, text in found.get("binaryData", {}).items()}


def expand_references(text: str, values: Mapping[str, str]) -> str:
    """`text` with $(NAME) replaced by its value, as Kubernetes does it: unknown names stay, $$ means $."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else values.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)
