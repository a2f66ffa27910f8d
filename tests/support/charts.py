"""A chart as a cluster would get it: rendered by Helm's own library, judged by Kubernetes' schemas.

    objects = render("ratls-enclave", values)
    [pod] = pods(objects)
    assert confined(pod) == []

`confined` is the profile `restricted` of the Pod Security Standards, and what this project asks
for beyond it. Helm says what is wrong with a value; `refused_values` gives its words.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import pytest
import yaml

from tests.support.refusal import count_refusal

ABSENT = object()
CHARTS = Path(__file__).parent.parent.parent / "manifests/helm"
KUBERNETES = ("1.29", "1.37")  # the oldest that Chart.yaml admits, and the newest
BY_DIGEST = re.compile(r"[^@:\s]+(:[0-9]+/[^@:\s]+)?@sha256:[0-9a-f]{64}")
# The volumes of the profile; a folder of the node (hostPath) is not among them.
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def change(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with some set, added or dropped, by path."""
    changed = copy.deepcopy(values)
    for path, value in changes.items():
        *above, name = path.split(".")
        table = changed
        for part in above:
            table = table.setdefault(part, {})
        if value is ABSENT:
            del table[name]
        else:
            table[name] = value
    return changed


def render(chart: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Every object of the chart; each is one that Kubernetes knows, without an unknown field."""
    with helm_python.Chart.load(CHARTS / chart) as loaded:
        texts = loaded.render(values, name="joint", namespace="ratls")
    objects = [
        found
        for name, text in texts.items()
        if not name.endswith(".txt")
        for found in yaml.safe_load_all(text)
        if found
    ]
    for found in objects:
        validate(found)
    return objects


def validate(found: dict[str, Any]) -> None:
    """Raises where Kubernetes does not know the object, or a field of it."""
    for version in KUBERNETES:
        kubernetes_validate.validate(found, version, strict=True)


def findings(chart: str, values: dict[str, Any]) -> list[str]:
    """What `helm lint` says, beyond the wish for an icon."""
    said = helm_python.lint(CHARTS / chart, values, strict=True)["messages"]
    return [message["error"] for message in said if "icon" not in message["error"]]


@contextmanager
def refused_values(*words: str) -> Iterator[None]:
    """Helm refuses, and each of the words stands in what it says: the value, and what is asked."""
    count_refusal()
    with pytest.raises(helm_python.HelmError) as caught:
        yield
    for word in words:
        assert word in str(caught.value)


def of_kind(objects: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [found for found in objects if found["kind"] == kind]


def pods(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The specification of every pod that any of the objects makes."""
    return [
        found["spec"]["template"]["spec"]
        for found in objects
        if "template" in found.get("spec", {})
    ]


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    return [*pod.get("initContainers", []), *pod["containers"]]


def container(pod: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [c for c in containers(pod) if c["name"] == name]
    return found


def confined(pod: dict[str, Any]) -> list[str]:
    """What breaks the restrictions; empty where nothing does."""
    found = [
        name
        for name, broken in {
            "service account token": pod.get("automountServiceAccountToken") is not False,
            "service links": pod.get("enableServiceLinks") is not False,
            "host namespace": any(pod.get(f"host{n}") for n in ("Network", "PID", "IPC")),
            "shared processes": bool(pod.get("shareProcessNamespace")),
            "sysctls": "sysctls" in pod["securityContext"],
            "seccomp": pod["securityContext"].get("seccompProfile") != {"type": "RuntimeDefault"},
            "root": pod["securityContext"].get("runAsNonRoot") is not True
            or pod["securityContext"].get("runAsUser") in (None, 0),
        }.items()
        if broken
    ]
    for volume in pod.get("volumes", []):
        kind, *more = volume.keys() - {"name"}
        if more or kind not in _VOLUMES:
            found.append(f"volume {volume['name']}: {kind}")
    for container in containers(pod):
        found += [f"{container['name']}: {broken}" for broken in _container(container)]
    return found


def _container(container: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    if not BY_DIGEST.fullmatch(container["image"]):
        yield "image without digest"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "privilege escalation"
    if context.get("readOnlyRootFilesystem") is not True:
        yield "root file system can be written"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "capabilities"
    if context.get("privileged", False) or context.get("procMount", "Default") != "Default":
        yield "privileged"
    if context.keys() & {"runAsUser", "runAsNonRoot", "seccompProfile", "seLinuxOptions"}:
        yield "what the pod says is replaced"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "host port"
    if "memory" not in container.get("resources", {}).get("limits", {}):
        yield "memory without a limit"
    resources = container["resources"]
    for name, amount in resources["limits"].items():
        # No overcommit of these: a request that differs is refused by the API server.
        if "/" in name and resources["requests"].get(name) != amount:
            yield f"{name} is not asked for"
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        if "host" in container.get(kind, {}).get("tcpSocket", {}):
            yield "probe of another host"
