"""The chart of the scheduler: one mailbox, its state on a claim, no way out but its database."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.database import database_url
from tests.support import charts
from tests.support.charts import confined, of_kind, pods, refused_values
from tests.support.parties import Consortium

pytestmark = pytest.mark.slow

IMAGE = "example.org/ratls/tools@sha256:" + "ab" * 32
URL = "postgresql+psycopg://scheduler@db.example.org/ratls?sslmode=verify-full"
DATABASE = {"url": URL, "address": "203.0.113.9", "passwordSecret": "database"}


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    """What an operator writes, and nothing more."""
    return {
        "image": IMAGE,
        "agreements": {"my-study": Consortium.create(root="intel").agreement_bytes().decode()},
        "clients": ["192.0.2.0/24"],
    }


def render(values: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return charts.render("ratls-scheduler", values | more)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"database": DATABASE},
        {"service": {"type": "NodePort"}},
        {"state": {"size": "5Gi", "storageClass": "fast"}},
    ],
    ids=str,
)
def test_every_pod_keeps_the_restrictions(values: dict[str, Any], more: dict[str, Any]) -> None:
    [pod] = pods(render(values, **more))
    assert confined(pod) == []


def test_helm_lints_it(values: dict[str, Any]) -> None:
    assert charts.findings("ratls-scheduler", values) == []


def test_its_key_stays_on_a_claim_that_outlives_the_release(values: dict[str, Any]) -> None:
    """With a new key every party would have to pin a new certificate."""
    objects = render(values)
    [claim], [pod] = of_kind(objects, "PersistentVolumeClaim"), pods(objects)
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    [volume] = [v for v in pod["volumes"] if v["name"] == "state"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [container] = pod["containers"]
    [mount] = [m for m in container["volumeMounts"] if m["name"] == "state"]
    [state] = [a for a in container["args"] if a.startswith("--state=")]
    assert state.removeprefix("--state=").startswith(mount["mountPath"] + "/")
    # Another change of owner at each mount would let the group read scheduler.key.
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_each_agreement_is_served(values: dict[str, Any]) -> None:
    two = {"one": values["agreements"]["my-study"], "two": values["agreements"]["my-study"]}
    objects = render(values, agreements=two)
    [pod] = pods(objects)
    [container] = pod["containers"]
    assert [a for a in container["args"] if a.startswith("--agreement=")] == [
        "--agreement=/etc/ratls/agreements/one.json",
        "--agreement=/etc/ratls/agreements/two.json",
    ]
    [config] = of_kind(objects, "ConfigMap")
    assert config["data"] == {f"{name}.json": text for name, text in two.items()}


@pytest.mark.parametrize(
    ("url", "port"),
    [(URL, 5432), ("postgresql+psycopg://scheduler@db.example.org:6432/ratls", 6432)],
)
def test_the_pod_reaches_its_database_and_nothing_else(
    values: dict[str, Any], url: str, port: int
) -> None:
    objects = render(values, database=DATABASE | {"url": url})
    [policy], [pod] = of_kind(objects, "NetworkPolicy"), pods(objects)
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == [
        {
            "to": [{"ipBlock": {"cidr": "203.0.113.9/32"}}],
            "ports": [{"protocol": "TCP", "port": port}],
        }
    ]
    assert pod["hostAliases"] == [{"ip": "203.0.113.9", "hostnames": ["db.example.org"]}]
    [container] = pod["containers"]
    [argument] = [a for a in container["args"] if a.startswith("--database=")]
    assert database_url(argument.removeprefix("--database=")).host == "db.example.org"
    [password] = container["env"]
    assert "value" not in password


def test_without_a_database_the_pod_reaches_nothing(values: dict[str, Any]) -> None:
    [policy] = of_kind(render(values), "NetworkPolicy")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"image": "tools:1"}, ["/image", "sha256"]),
        ({"agreements": {}}, ["/agreements", "want 1"]),
        ({"agreements": {"../x": "{}"}}, ["../x"]),
        ({"agreements": {"x": "not JSON"}}, ["agreements.x: not the content"]),
        ({"clients": []}, ["/clients", "want 1"]),
        ({"database": {"url": URL}}, ["/database", "missing property 'address'"]),
        (
            {"database": DATABASE | {"url": "postgresql+psycopg://scheduler:x@db/ratls"}},
            ["/database/url"],
        ),
        ({"database": DATABASE | {"url": "sqlite:////tmp/queue"}}, ["/database/url"]),
        ({"database": DATABASE | {"password": "x"}}, ["/database", "password"]),
        ({"state": {"size": "all"}}, ["/state/size"]),
        ({"replicas": 2}, ["'replicas' not allowed"]),
    ],
    ids=lambda part: ",".join(part),
)
def test_a_wrong_value_is_named(
    values: dict[str, Any], more: dict[str, Any], words: list[str]
) -> None:
    with refused_values(*words):
        render(values, **more)
