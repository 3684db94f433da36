"""What all Dockerfiles have in common; `make images` builds them."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("operator", "trainer", "sidecar", "rollout", "sandbox")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def read_instructions(part: str) -> list[tuple[str, str]]:
    """Instruction and the rest of it, without comments."""
    text = (ROOT / "images" / part / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


@pytest.mark.parametrize("part", PARTS)
def test_the_base_can_be_chosen_and_is_that_of_all_stages(part: str) -> None:
    instructions = read_instructions(part)
    assert instructions[0][0] == "ARG"
    assert instructions[0][1].startswith("BASE=")
    stages = [rest for name, rest in instructions if name == "FROM"]
    assert stages == ["${BASE} AS build", *(["${BASE} AS crun"] if part == "sandbox" else []), "${BASE}"]


@pytest.mark.parametrize("part", PARTS)
def test_only_its_own_package_is_in_it_with_its_own_extra(part: str) -> None:
    instructions = read_instructions(part)
    tools = ("images/install", "crun")
    copied = [rest.split()[0] for name, rest in instructions if name == "COPY" and not any(t in rest for t in tools)]
    assert copied == ["core", part, "--from=build"]
    (extras,) = [rest.removeprefix("EXTRAS=").split(",") for name, rest in instructions if rest.startswith("EXTRAS=")]
    assert extras[0] == part
    assert set(extras) <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("part", PARTS)
def test_it_is_labelled_runs_without_rights_and_ends_with_a_check(part: str) -> None:
    instructions = read_instructions(part)
    labels = " ".join(rest for name, rest in instructions if name == "LABEL")
    assert all(f"org.opencontainers.image.{label}=" in labels for label in ("title", "version", "revision", "licenses"))
    assert f"ARG VERSION={PROJECT['version']}" in " ".join(f"{name} {rest}" for name, rest in instructions)
    (user,) = [rest for name, rest in instructions if name == "USER"]
    assert user == ("0:0" if part == "sandbox" else "1000:1000")
    name, check = instructions[-1]
    assert name == "RUN"
    assert re.search(rf"import tandem_{part}\.", check)


def test_the_chart_names_the_version_that_the_images_have() -> None:
    chart = (ROOT / "helm" / "tandem" / "Chart.yaml").read_text()
    assert f"\nappVersion: {PROJECT['version']}\n" in chart
