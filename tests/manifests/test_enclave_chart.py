"""The chart of the enclave: what it renders asks for little, and wrong values are told apart."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from enclave_app import gramine_main
from tests.manifests.conftest import TDX, agreed
from tests.support import charts
from tests.support.charts import (
    ABSENT,
    change,
    confined,
    container,
    containers,
    of_kind,
    pods,
    refused_values,
)
from tests.support.parties import Consortium

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent
TEMPLATE = ROOT / "manifests/gramine/ratls-enclave.manifest.template"
CHART = "ratls-enclave"
# Each way in which the values may go; every pod of each is held to the restrictions.
VARIANTS: dict[str, dict[str, Any]] = {
    "aesmd in the pod": {},
    "aesmd of the node": {"aesmd": {"claim": "aesmd-socket"}},
    "a private CA": {"collateral.ca": "-----BEGIN CERTIFICATE-----\nMII\n"},
    "a group for provisioning": {"aesmd.group": 123},
    "no doctor": {"doctor": False},
    "a load balancer": {"service.type": "LoadBalancer", "service.annotations": {"a/b": "c"}},
    "IPv6": {"collateral.address": "2001:db8::7", "clients": ["2001:db8:1::/48"]},
    "placed": {
        "nodeSelector": {"pool": "sgx"},
        "tolerations": [{"key": "sgx", "operator": "Exists"}],
        "imagePullSecrets": [{"name": "registry"}],
    },
}


SEALED = '[transport]\nbulk = "sealed"\n'


def render(values: dict[str, Any], changes: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    return charts.render(CHART, change(values, changes or {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_pod_keeps_the_restrictions(values: dict[str, Any], variant: str) -> None:
    [pod] = pods(render(values, VARIANTS[variant]))
    assert confined(pod) == []


@pytest.mark.parametrize("more", [{}, {"tdx.runtimeClass": "kata-qemu-tdx"}])
def test_a_trust_domain_differs_in_one_restriction(
    of_a_guest: dict[str, Any], more: dict[str, Any]
) -> None:
    """Its kernel gives the files of a quote request to root: tdx-guest has no group for them."""
    [pod] = pods(render(of_a_guest, more))
    assert confined(pod) == ["root"]
    assert not any("sgx" in name for c in containers(pod) for name in c["resources"]["limits"])
    assert container(pod, "enclave")["args"][-2:] == ["--attester", "tdx"]
    assert ("runtimeClassName" in pod) == ("nodeSelector" not in pod) == bool(more)


@pytest.mark.parametrize(
    ("path", "value", "broken"),
    [
        ("automountServiceAccountToken", True, "service account token"),
        ("hostNetwork", True, "host namespace"),
        ("securityContext.runAsNonRoot", False, "root"),
        ("securityContext.runAsUser", 0, "root"),
        ("securityContext.seccompProfile", {"type": "Unconfined"}, "seccomp"),
        ("volumes", [{"name": "x", "hostPath": {"path": "/"}}], "volume x: hostPath"),
        ("containers.0.image", "enclave:latest", "enclave: image without digest"),
        ("containers.0.image", "enclave:1@sha256:" + "0" * 64, "enclave: image without digest"),
        ("containers.0.securityContext", ABSENT, "enclave: privilege escalation"),
        ("containers.0.securityContext.readOnlyRootFilesystem", False, "enclave: root file system"),
        ("containers.0.securityContext.capabilities.add", ["SYS_ADMIN"], "enclave: capabilities"),
        ("containers.0.securityContext.privileged", True, "enclave: privileged"),
        ("containers.0.securityContext.runAsUser", 0, "enclave: what the pod says"),
        ("containers.0.resources.limits.memory", ABSENT, "enclave: memory"),
        ("initContainers.1.securityContext.privileged", True, "doctor: privileged"),
    ],
)
def test_a_pod_that_asks_for_more_is_noticed(
    values: dict[str, Any], path: str, value: Any, broken: str
) -> None:
    """The test above is only as good as what it looks at."""
    charts.count_refusal()
    [pod] = pods(render(values))
    pod = copy.deepcopy(pod)
    *above, name = path.split(".")
    table: Any = pod
    for part in above:
        table = table[int(part)] if part.isdigit() else table[part]
    if value is ABSENT:
        del table[name]
    else:
        table[name] = value
    assert any(found.startswith(broken) for found in confined(pod))


def test_helm_lints_it(values: dict[str, Any]) -> None:
    assert charts.findings(CHART, values) == []


def test_sizes_are_those_that_are_measured(values: dict[str, Any]) -> None:
    """An enclave with less memory than the manifest says does not start."""
    [size] = re.findall(r'^enclave_size = "(\w+)"', TEMPLATE.read_text("utf-8"), re.MULTILINE)
    assert yaml.safe_load((charts.CHARTS / CHART / "values.yaml").read_text())["enclave"] == {
        "size": size
    }, "values.yaml and values.schema.json follow the manifest"
    [pod] = pods(render(values))
    limits = container(pod, "enclave")["resources"]["limits"]
    assert limits["sgx.intel.com/epc"] == f"{size}i"  # Gramine's G is Kubernetes' Gi
    assert limits["sgx.intel.com/enclave"] == 1


def test_devices_are_asked_for_by_those_that_use_them(values: dict[str, Any]) -> None:
    """Without the admission webhook, which nobody has to have installed."""
    objects = render(values)
    [pod] = pods(objects)
    asked = {
        c["name"]: {n.rpartition("/")[2] for n in c["resources"]["limits"] if "sgx" in n}
        for c in containers(pod)
    }
    assert asked == {
        "aesmd": {"enclave", "provision", "epc"},
        "doctor": {"enclave"},
        "enclave": {"enclave", "epc"},
    }
    [deployment] = of_kind(objects, "Deployment")
    assert "sgx.intel.com/quote-provider" not in json.dumps(deployment)


def test_the_quoting_service_is_there_before_the_doctor_looks(values: dict[str, Any]) -> None:
    [pod] = pods(render(values))
    aesmd, doctor = pod["initContainers"]
    assert (aesmd["name"], aesmd["restartPolicy"]) == ("aesmd", "Always")
    assert "startupProbe" in aesmd
    assert doctor["command"] == ["ratls", "doctor", "--role", "enclave"]
    assert doctor["image"] == container(pod, "enclave")["image"]
    # It sees what the quoting service is told.
    assert [m["mountPath"] for m in doctor["volumeMounts"]] == [
        "/var/run/aesmd",
        "/etc/sgx_default_qcnl.conf",
    ]


def test_the_node_s_socket_comes_as_a_claim(values: dict[str, Any]) -> None:
    """Not as a folder of the node, which a pod of this profile may not name."""
    [pod] = pods(render(values, VARIANTS["aesmd of the node"]))
    [volume] = [v for v in pod["volumes"] if v["name"] == "aesmd"]
    assert volume["persistentVolumeClaim"] == {"claimName": "aesmd-socket", "readOnly": True}
    assert [c["name"] for c in containers(pod)] == ["doctor", "enclave"]


def test_the_agreement_is_where_the_entry_point_reads_it(values: dict[str, Any]) -> None:
    objects = render(values)
    [pod] = pods(objects)
    [mount] = [m for m in container(pod, "enclave")["volumeMounts"] if m["name"] == "agreement"]
    assert mount["mountPath"] == str(gramine_main.AGREEMENT)
    assert mount["readOnly"]
    [volume] = [v for v in pod["volumes"] if v["name"] == "agreement"]
    [config] = [
        c
        for c in of_kind(objects, "ConfigMap")
        if c["metadata"]["name"] == volume["configMap"]["name"]
    ]
    assert config["data"] == {"agreement.json": values["agreement"]}
    assert config["immutable"]


def test_probes_ask_the_port_of_the_ready_line(values: dict[str, Any]) -> None:
    [pod] = pods(render(values))
    enclave = container(pod, "enclave")
    [port] = enclave["ports"]
    assert (port["name"], port["containerPort"]) == (
        "ready",
        int(gramine_main.LISTEN.rpartition(":")[2]),
    )
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert enclave[kind]["tcpSocket"] == {"port": "ready"}


@pytest.mark.parametrize(
    ("changes", "cidr", "ports"),
    [
        ({}, "203.0.113.7/32", [7443]),
        (VARIANTS["IPv6"], "2001:db8::7/128", [7443]),
    ],
)
def test_the_pod_reaches_the_collateral_service_and_nothing_else(
    values: dict[str, Any], changes: dict[str, Any], cidr: str, ports: list[int]
) -> None:
    objects = render(values, changes)
    [policy], [deployment] = of_kind(objects, "NetworkPolicy"), of_kind(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["egress"] == [
        {"to": [{"ipBlock": {"cidr": cidr}}], "ports": [{"protocol": "TCP", "port": 8081}]}
    ]
    [ingress] = policy["spec"]["ingress"]
    clients = change(values, changes)["clients"]
    assert ingress["from"] == [{"ipBlock": {"cidr": network}} for network in clients]
    assert [port["port"] for port in ingress["ports"]] == ports
    [service] = of_kind(objects, "Service")
    assert [port["port"] for port in service["spec"]["ports"]] == ports


def test_the_collateral_service_is_spoken_to_over_tls_that_is_checked(
    values: dict[str, Any],
) -> None:
    objects = render(values)
    [conf] = [c["data"] for c in of_kind(objects, "ConfigMap") if "agreement" not in str(c["data"])]
    assert json.loads(conf["sgx_default_qcnl.conf"]) == {
        "pccs_url": "https://pccs.example.org:8081/sgx/certification/v4/",
        "use_secure_cert": True,
    }
    [pod] = pods(objects)
    assert pod["hostAliases"] == [{"ip": "203.0.113.7", "hostnames": ["pccs.example.org"]}]


def test_another_policy_starts_another_pod(values: dict[str, Any], production: Consortium) -> None:
    """The agreement is read once, at start."""
    other = agreed(production, production.policy_text(study='"another-study"'))
    [one] = of_kind(render(values), "Deployment")
    [two] = of_kind(render(values, other), "Deployment")
    assert one["spec"]["template"] != two["spec"]["template"]


def test_sealed_rows_have_a_port_where_the_policy_says_so(
    values: dict[str, Any], production: Consortium
) -> None:
    sealed = agreed(production, production.policy_text() + SEALED)
    for changes, ports in (({}, [7443]), (sealed, [7443, 7444])):
        objects = render(values, changes)
        [service], [pod] = of_kind(objects, "Service"), pods(objects)
        assert confined(pod) == []
        assert [port["port"] for port in service["spec"]["ports"]] == ports
        assert [p["containerPort"] for p in container(pod, "enclave")["ports"]] == ports
        [policy] = of_kind(objects, "NetworkPolicy")
        assert [p["port"] for p in policy["spec"]["ingress"][0]["ports"]] == ports


def test_a_policy_for_simulation_is_refused(values: dict[str, Any]) -> None:
    with refused_values("agreement: its policy names the root simulation:sha256:"):
        render(values, agreed(Consortium.create()))


def test_a_policy_without_such_an_enclave_is_refused(
    values: dict[str, Any], of_a_guest: dict[str, Any]
) -> None:
    with refused_values("tee: the policy lists enclaves of sgx, and none of tdx"):
        render(values, TDX)
    with refused_values("tee: the policy lists enclaves of tdx, and none of sgx"):
        render(of_a_guest, {"tee": "sgx", "tdx": ABSENT, "aesmd": {"claim": "socket"}})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": ABSENT}, ["missing property 'image'"]),
        ({"image": "example.org/enclave:1.4"}, ["/image", "sha256"]),
        ({"image": "example.org/enclave:1.4@sha256:" + "a" * 64}, ["/image", "sha256"]),
        ({"image": "example.org/enclave@sha256:" + "A" * 64}, ["/image", "sha256"]),
        ({"aesmd.image": "aesmd:latest"}, ["/aesmd/image", "sha256"]),
        ({"policyDigest": ABSENT}, ["missing property 'policyDigest'"]),
        ({"policyDigest": "c0ffee"}, ["/policyDigest", "sha256"]),
        ({"policyDigest": "sha256:" + "0" * 64}, ["policyDigest: the agreement's newest version"]),
        ({"agreement": ABSENT}, ["missing property 'agreement'"]),
        ({"agreement": "policy.agreement.json"}, ["agreement: not the content", "--set-file"]),
        ({"agreement": "{}"}, ["agreement: not the content"]),
        ({"agreement": '{"versions": []}'}, ["agreement: not the content"]),
        ({"agreement": '{"versions": [{"payload": "%"}]}'}, ["policyDigest: "]),
        ({"agreement": " " * 1_000_001}, ["/agreement", "maxLength"]),
        ({"enclave.size": "8G"}, ["/enclave/size", "'16G'"]),
        ({"enclave.size": "16Gi"}, ["/enclave/size", "'16G'"]),
        ({"enclave.edmm": True}, ["/enclave", "edmm"]),
        ({"clients": ABSENT}, ["missing property 'clients'"]),
        ({"clients": []}, ["/clients", "want 1"]),
        ({"clients": ["192.0.2.300/24"]}, ["/clients/0"]),
        ({"clients": ["anybody"]}, ["/clients/0"]),
        ({"collateral": ABSENT}, ["missing property 'collateral'"]),
        ({"collateral.address": ABSENT}, ["/collateral", "missing property 'address'"]),
        ({"collateral.address": "pccs.example.org"}, ["/collateral/address"]),
        ({"collateral.address": "127.0.0.1"}, ["collateral.address: within a pod"]),
        ({"collateral.host": 'a", "use_secure_cert": false'}, ["/collateral/host"]),
        ({"collateral.port": 0}, ["/collateral/port", "minimum"]),
        ({"collateral.ca": "ca.crt"}, ["/collateral/ca"]),
        ({"collateral.use_secure_cert": False}, ["/collateral", "use_secure_cert"]),
        ({"aesmd": ABSENT}, ["aesmd: missing", "`claim`"]),
        ({"aesmd": {}}, ["aesmd: name one"]),
        ({"aesmd.claim": "socket"}, ["aesmd: name one"]),
        ({"aesmd": {"claim": "socket", "group": 5}}, ["aesmd.group: "]),
        ({"aesmd.group": 0}, ["/aesmd/group", "minimum"]),
        ({"tee": "sev"}, ["/tee", "'sgx', 'tdx'"]),
        ({"tee": "tdx"}, ["aesmd: tee is tdx"]),
        ({"tee": "tdx", "aesmd": ABSENT}, ["tdx: missing", "`reports`"]),
        ({"tdx": {"reports": "x"}}, ["tdx: tee is sgx"]),
        ({**TDX, "tdx": {}}, ["/tdx", "missing property 'reports'"]),
        ({"resources.memory": "much"}, ["/resources/memory"]),
        ({"service.type": "ExternalName"}, ["/service/type"]),
        ({"doctor": "yes"}, ["/doctor", "want boolean"]),
        ({"imagePullSecrets": [{"name": "x", "value": "y"}]}, ["/imagePullSecrets/0", "value"]),
        ({"replicas": 2}, ["'replicas' not allowed"]),
        ({"securityContext": {}}, ["'securityContext' not allowed"]),
    ],
    ids=lambda part: ",".join(part),
)
def test_a_wrong_value_is_named(
    values: dict[str, Any], changes: dict[str, Any], words: list[str]
) -> None:
    with refused_values(*words):
        render(values, changes)
