"""cloud-init did its work from the seed, and knows the clouds that nodes live in."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import yaml

if TYPE_CHECKING:
    from pipeline.lab.facts import Fact


@pytest.mark.parametrize("source", ["NoCloud", "OpenStack", "Ec2"])
def test_datasource_is_listed(facts: dict[str, Fact], source: str) -> None:
    # Files are read in this order, and a later list replaces an earlier one.
    lists = re.findall(r"(?m)^datasource_list:\s*(\[.*\])", facts["cloud-config"].text)
    assert source in yaml.safe_load(lists[-1])


@pytest.mark.booted
def test_cloud_init_is_done(facts: dict[str, Fact]) -> None:
    assert re.search(r"(?m)^status: done$", facts["cloud-init"].text), facts["cloud-init"].text


@pytest.mark.booted
def test_cloud_init_met_no_error(facts: dict[str, Fact]) -> None:
    assert json.loads(facts["cloud-errors"].text)["v1"]["errors"] == []


@pytest.mark.booted
def test_cloud_init_used_the_seed(facts: dict[str, Fact]) -> None:
    assert "DataSourceNoCloud" in json.loads(facts["cloud-errors"].text)["v1"]["datasource"]
    assert facts["cloud-id"].text == "nocloud"
