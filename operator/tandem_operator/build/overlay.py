"""Strategic merge of a user's patch into a PodTemplateSpec, as kubectl patch does it."""

import copy
from typing import Any

from tandem_core.errors import TandemError

from tandem_operator.build.settings import KubernetesObject

MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "resourceClaims": "name",
    "schedulingGates": "name",
}
"""Lists of a PodTemplateSpec that are merged, by the field that tells their items apart: the patchMergeKey of each in
k8s.io/api/core/v1/types.go. All other lists (tolerations, command, args) are replaced."""

PATCH_DIRECTIVE = "$patch"
RETAIN_DIRECTIVE = "$retainKeys"


class OverlayError(TandemError):
    """A patch in spec.pods that cannot be merged."""


def apply_overlay(template: KubernetesObject, overlay: KubernetesObject, *, place: str) -> KubernetesObject:
    """`template` with `overlay` merged in; neither is changed.

    Objects are merged field by field, null removes a field, the lists of MERGE_KEYS are merged item by item (new items
    at the end), other values are replaced. `$patch: replace`, `$patch: delete` and `$retainKeys` work as in kubectl.
    `place` names the overlay in errors, such as spec.pods.hybrid. Raises OverlayError.
    """
    merged = _merge_objects(copy.deepcopy(template), copy.deepcopy(overlay), place)
    return {} if merged is None else merged


def _merge_objects(base: KubernetesObject, patch: KubernetesObject, place: str) -> KubernetesObject | None:
    """The merged object; None: `$patch: delete` removes it."""
    directive = patch.pop(PATCH_DIRECTIVE, "merge")
    retained = patch.pop(RETAIN_DIRECTIVE, None)
    _check_directives(directive, patch, place)
    if directive == "delete":
        return None
    if directive == "replace":
        return patch
    merged = base if retained is None else {key: value for key, value in base.items() if key in retained}
    for key, value in patch.items():
        inner = f"{place}.{key}"
        if value is None:
            merged.pop(key, None)
        elif key in MERGE_KEYS:
            merged[key] = _merge_lists(merged.get(key) or [], value, MERGE_KEYS[key], inner)
        elif isinstance(value, dict):
            former = merged.pop(key, None)
            result = _merge_objects(former if isinstance(former, dict) else {}, value, inner)
            if result is not None:
                merged[key] = result
        else:
            merged[key] = value
    return merged


def _merge_lists(base: list[Any], patch: Any, merge_key: str, place: str) -> list[Any]:
    if not isinstance(patch, list):
        raise OverlayError(f"{place}: expected a list of objects with {merge_key}, found {patch!r}")
    items = [item for item in patch if item != {PATCH_DIRECTIVE: "replace"}]
    merged = {item[merge_key]: item for item in ([] if len(items) < len(patch) else base)}
    for number, item in enumerate(items):
        if not isinstance(item, dict) or item.get(merge_key) is None:
            raise OverlayError(
                f"{place}[{number}]: {merge_key} is missing; it says which item is meant (there are "
                f"{', '.join(str(key) for key in merged) or 'none'}; any other is added)"
            )
        key = item[merge_key]
        result = _merge_objects(merged.get(key, {}), item, f"{place}[{key}]")
        if result is None:
            merged.pop(key, None)
        else:
            merged[key] = result
    return list(merged.values())


def _check_directives(directive: Any, patch: KubernetesObject, place: str) -> None:
    if directive not in ("merge", "replace", "delete"):
        raise OverlayError(f"{place}: $patch must be merge, replace or delete, found {directive!r}")
    unknown = [key for key in patch if key.startswith("$")]
    if unknown:
        raise OverlayError(
            f"{place}: {', '.join(unknown)} is not understood; $patch and $retainKeys are, and null removes a field"
        )
