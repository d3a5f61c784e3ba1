"""Nothing of a cluster is in the image: no container image, no registry's address, no Kubernetes binary."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


def test_no_container_image_is_stored(facts: dict[str, Fact]) -> None:
    assert facts["image-layers"].lines == []


@pytest.mark.booted
def test_container_engine_works_and_lists_no_image(facts: dict[str, Fact]) -> None:
    assert facts["images"].status == 0, facts["images"].text
    assert facts["images"].lines == []


def test_no_registry_is_named(facts: dict[str, Fact]) -> None:
    assert facts["registries"].lines == []


def test_no_kubernetes_binary(facts: dict[str, Fact]) -> None:
    # Where docker is the container engine, containerd is a part of it.
    has_docker = any(name.startswith("docker") for name in facts["packages"].pairs("\t"))
    found = [path for path in facts["kubernetes"].lines if not (has_docker and "/containerd" in path)]
    assert found == []
