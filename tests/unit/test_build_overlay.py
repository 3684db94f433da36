"""The overlay against what kubectl's strategic merge patch does."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tandem_operator.build.overlay import OverlayError, apply_overlay

TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "a"}},
    "spec": {
        "restartPolicy": "Never",
        "containers": [{"name": "main", "command": ["a", "b"], "env": [{"name": "A", "value": "1"}]}],
        "volumes": [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        "tolerations": [{"key": "old"}],
    },
}


def merged(patch: dict[str, Any]) -> dict[str, Any]:
    return apply_overlay(TEMPLATE, {"spec": patch}, place="spec.pods.hybrid")["spec"]


def test_items_with_the_same_name_are_merged_and_new_ones_come_last() -> None:
    result = merged({"containers": [{"name": "extra"}, {"name": "main", "env": [{"name": "B", "value": "2"}]}]})
    assert [container["name"] for container in result["containers"]] == ["main", "extra"]
    assert result["containers"][0]["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]


def test_a_value_of_the_same_variable_is_replaced() -> None:
    result = merged({"containers": [{"name": "main", "env": [{"name": "A", "value": "9"}]}]})
    assert result["containers"][0]["env"] == [{"name": "A", "value": "9"}]


@pytest.mark.parametrize("field", ["tolerations"])
def test_lists_without_a_merge_key_are_replaced(field: str) -> None:
    assert merged({field: [{"key": "new"}]})[field] == [{"key": "new"}]
    assert merged({"containers": [{"name": "main", "command": ["c"]}]})["containers"][0]["command"] == ["c"]


def test_null_removes_a_field() -> None:
    assert "restartPolicy" not in merged({"restartPolicy": None})
    assert merged({"volumes": [{"name": "tmp", "emptyDir": None, "hostPath": {"path": "/t"}}]})["volumes"][1] == {
        "name": "tmp",
        "hostPath": {"path": "/t"},
    }


def test_delete_removes_an_item() -> None:
    assert merged({"volumes": [{"name": "cache", "$patch": "delete"}]})["volumes"] == [{"name": "tmp", "emptyDir": {}}]


def test_replace_replaces_an_item_or_the_whole_list() -> None:
    assert merged({"volumes": [{"name": "cache", "$patch": "replace", "hostPath": {"path": "/c"}}]})["volumes"][0] == {
        "name": "cache",
        "hostPath": {"path": "/c"},
    }
    assert merged({"volumes": [{"name": "only", "emptyDir": {}}, {"$patch": "replace"}]})["volumes"] == [
        {"name": "only", "emptyDir": {}}
    ]


def test_retain_keys_drops_the_former_source_of_a_volume() -> None:
    patch = {"volumes": [{"name": "cache", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/c"}}]}
    assert merged(patch)["volumes"][0] == {"name": "cache", "hostPath": {"path": "/c"}}


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"containers": [{"image": "x"}]}, r"spec\.pods\.hybrid\.spec\.containers\[0\]: name is missing.*main"),
        ({"containers": ["main"]}, r"spec\.pods\.hybrid\.spec\.containers\[0\]: name is missing"),
        ({"volumes": {"name": "x"}}, r"spec\.pods\.hybrid\.spec\.volumes: expected a list"),
        ({"volumes": [{"name": "tmp", "$patch": "remove"}]}, r"volumes\[tmp\]: \$patch must be .* found 'remove'"),
        ({"$setElementOrder/volumes": []}, r"spec\.pods\.hybrid\.spec: \$setElementOrder/volumes is not understood"),
    ],
)
def test_a_patch_that_cannot_be_merged_is_refused_with_its_place(patch: dict[str, Any], message: str) -> None:
    with pytest.raises(OverlayError, match=message):
        merged(patch)


objects = st.dictionaries(
    st.sampled_from(["a", "b", "env", "volumes"]),
    st.none() | st.integers() | st.lists(st.fixed_dictionaries({"name": st.sampled_from("xyz"), "v": st.integers()})),
)


@given(patch=objects)
def test_a_patch_applied_twice_changes_nothing_more_and_inputs_are_left_alone(patch: dict[str, Any]) -> None:
    patch = {key: value for key, value in patch.items() if isinstance(value, list) or key not in ("env", "volumes")}
    template, before = copy.deepcopy(TEMPLATE), copy.deepcopy(patch)
    once = apply_overlay(template, patch, place="here")
    assert apply_overlay(once, patch, place="here") == once
    assert (template, patch) == (TEMPLATE, before)


def test_an_empty_overlay_changes_nothing() -> None:
    assert apply_overlay(TEMPLATE, {}, place="here") == TEMPLATE
