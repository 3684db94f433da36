"""The environment of a container, from the `env` and `envFrom` of its specification. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem_local.kubernetes_values import KubernetesObject, ObjectIndex, UnsupportedObject, expand_references


@dataclass(frozen=True)
class PodIdentity:
    """What a fieldRef can ask for."""

    name: str
    namespace: str
    uid: str
    address: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    def field(self, path: str) -> str:
        """The value of a fieldPath; raises UnsupportedObject for fields one machine does not have."""
        simple = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "metadata.uid": self.uid,
            "spec.nodeName": "localhost",
            "status.hostIP": self.address,
            "status.podIP": self.address,
            "status.podIPs": self.address,
        }
        if path in simple:
            return simple[path]
        for prefix, values in (("metadata.labels", self.labels), ("metadata.annotations", self.annotations)):
            if path.startswith(f"{prefix}['") and path.endswith("']"):
                return values.get(path[len(prefix) + 2 : -2], "")
        raise UnsupportedObject(
            f"pod {self.name}: fieldRef {path!r} has no value on one machine; known are {', '.join(simple)}, "
            "metadata.labels['...'] and metadata.annotations['...']"
        )


def build_environment(container: KubernetesObject, identity: PodIdentity, index: ObjectIndex) -> dict[str, str]:
    """The container's variables, with $(NAME) references to earlier ones replaced; paths as the container sees them."""
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for field, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
            if field in source:
                reference = source[field]
                entries = index.data(kind, reference["name"], optional=bool(reference.get("optional")))
                values |= {source.get("prefix", "") + key: value.decode() for key, value in entries.items()}
    for variable in container.get("env", []):
        value = _value(variable, identity, index)
        if value is not None:
            values[variable["name"]] = expand_references(value, values) if "value" in variable else value
    return values


def _value(variable: KubernetesObject, identity: PodIdentity, index: ObjectIndex) -> str | None:
    match variable:
        case {"valueFrom": {"fieldRef": {"fieldPath": path}}}:
            return identity.field(path)
        case {"valueFrom": {"secretKeyRef": reference}}:
            return _entry("Secret", reference, index)
        case {"valueFrom": {"configMapKeyRef": reference}}:
            return _entry("ConfigMap", reference, index)
        case {"valueFrom": source}:
            raise UnsupportedObject(
                f"pod {identity.name}: variable {variable['name']} comes from {', '.join(source)}, which one machine "
                "does not have: use value, fieldRef, secretKeyRef or configMapKeyRef"
            )
    return str(variable.get("value", ""))


def _entry(kind: str, reference: KubernetesObject, index: ObjectIndex) -> str | None:
    optional = bool(reference.get("optional"))
    entries = index.data(kind, reference["name"], optional=optional)
    if reference["key"] not in entries and not optional:
        raise UnsupportedObject(
            f"{kind} {reference['name']!r} has no key {reference['key']!r}; it has {', '.join(sorted(entries))}"
        )
    return entries[reference["key"]].decode() if reference["key"] in entries else None
