"""What stands beside the charts: claims for administrators, and the page that explains them."""

from __future__ import annotations

import re
from typing import Any

import helm_python
import pytest
import yaml

from tests.support import charts
from tests.support.charts import CHARTS

pytestmark = pytest.mark.slow


def objects(name: str) -> list[dict[str, Any]]:
    found = list(yaml.safe_load_all((CHARTS / name).read_text("utf-8")))
    for each in found:
        charts.validate(each)
    return found


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("aesmd-of-the-node.yaml", "/var/run/aesmd"),
        ("reports-of-the-guest.yaml", "/sys/kernel/config/tsm/report"),
    ],
)
def test_a_claim_shows_one_folder_to_one_namespace(name: str, path: str) -> None:
    volume, claim = objects(name)
    assert volume["spec"]["hostPath"] == {"path": path, "type": "Directory"}
    assert volume["spec"]["claimRef"] == {
        key: claim["metadata"][key] for key in ("namespace", "name")
    }
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["accessModes"] == volume["spec"]["accessModes"]


def test_a_field_that_kubernetes_does_not_know_is_noticed() -> None:
    charts.count_refusal()
    volume, _ = objects("aesmd-of-the-node.yaml")
    volume["spec"]["hostPaths"] = volume["spec"].pop("hostPath")
    with pytest.raises(charts.kubernetes_validate.ValidationError):
        charts.validate(volume)


def test_the_page_names_values_that_exist() -> None:
    page = (CHARTS / "README.md").read_text("utf-8")
    [sample] = [b for b in re.findall(r"```\n(.*?)```", page, re.DOTALL) if b.startswith("image:")]
    with helm_python.Chart.load(CHARTS / "ratls-enclave") as chart:
        known = chart.schema["properties"].keys() if chart.schema else ()
    assert yaml.safe_load(sample).keys() <= known
    for name in re.findall(r"`((?:aesmd|tdx)\.\w+)", page):
        assert name.split(".")[1] in ("image", "claim", "group", "reports")


@pytest.mark.parametrize("chart", ["ratls-enclave", "ratls-scheduler"])
def test_every_value_is_explained_where_an_operator_looks(chart: str) -> None:
    """`helm show values` prints this file."""
    text = (CHARTS / chart / "values.yaml").read_text("utf-8")
    with helm_python.Chart.load(CHARTS / chart) as loaded:
        schema = loaded.schema
    assert schema is not None
    explained = set(re.findall(r"^(?:# )?(\w+):", text, re.MULTILINE))
    assert schema["properties"].keys() == explained
    # What has a default is not asked for, and nothing else is optional without saying so.
    assert not set(schema["required"]) - explained
