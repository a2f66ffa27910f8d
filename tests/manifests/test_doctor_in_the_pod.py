"""What `ratls doctor` sees within the rendered pod, on a node that is ready, is ready too."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ratls.doctor.examine import examine
from ratls.doctor.finding import Outcome, Role, verdict
from tests.manifests.test_enclave_chart import render
from tests.support.charts import container, of_kind, pods
from tests.support.machines import Machine, answer, sgx_machine, tdx_guest
from tests.support.refusal import count_refusal
from verifier.errors import Exit

pytestmark = pytest.mark.slow

UNITS = Path(__file__).parent.parent.parent / "manifests/systemd"
SERVICE = "https://pccs.example.org:8081/sgx/certification/v4/"
# Of the node, and not given to the container.
OUTSIDE = (
    "/dev/sgx_provision",
    "/dev/sgx/enclave",
    "/dev/sgx/provision",
    "/usr/lib/systemd/system/aesmd.service",
    "/var/lib/kubelet/device-plugins",
    "/etc/sgx_default_qcnl.conf",
)


def within(machine: Machine, objects: list[dict[str, Any]]) -> Machine:
    """The node, as the doctor's container shows it; Gramine is in the image."""
    [pod] = pods(objects)
    user = pod["securityContext"]["runAsUser"]
    machine.gone(*OUTSIDE)
    ids = f"\t{user}" * 4
    machine.file("/proc/self/status", f"Uid:{ids}\nGid:{ids}\nGroups:\t \n")
    machine.file("/etc/group", "root:x:0:\n")
    mounts = [mount["mountPath"] for mount in container(pod, "doctor")["volumeMounts"]]
    [conf] = [c["data"] for c in of_kind(objects, "ConfigMap") if "agreement" not in str(c["data"])]
    for path in mounts:
        if Path(path).name in conf:
            machine.file(path, conf[Path(path).name])
    if "/var/run/aesmd" not in mounts:
        machine.gone("/var/run/aesmd/aesm.socket")
    return machine


def test_a_ready_node_is_ready_within_the_pod(tmp_path: Path, values: dict[str, Any]) -> None:
    machine = within(sgx_machine(tmp_path / "node"), render(values))
    answer(machine, SERVICE)
    findings = examine(machine.snapshot(), Role.ENCLAVE)
    assert [f for f in findings if f.outcome not in (Outcome.READY, Outcome.NOTE)] == []
    assert verdict(findings) is Exit.YES


def test_so_is_a_guest(tmp_path: Path, of_a_guest: dict[str, Any]) -> None:
    machine = within(tdx_guest(tmp_path / "node"), render(of_a_guest))
    assert verdict(examine(machine.snapshot(), Role.ENCLAVE)) is Exit.YES


def test_a_collateral_service_that_is_out_of_reach_ends_the_start(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    """Of the network policy, or of the service: the pod does not start, and its log says why."""
    count_refusal()
    machine = within(sgx_machine(tmp_path / "node"), render(values))
    answer(machine, SERVICE, "no connection: timed out")
    findings = {f.check: f for f in examine(machine.snapshot(), Role.ENCLAVE)}
    assert findings["collateral-service"].outcome is Outcome.NOT_READY
    assert verdict(findings.values()) is Exit.NOT_ADMITTED


def test_charts_and_units_ask_in_words_that_the_doctor_knows(values: dict[str, Any]) -> None:
    """What it finds here is another matter: 0 ready, 6 not ready, 5 could not tell."""
    [pod] = pods(render(values))
    command = container(pod, "doctor")["command"]
    for unit in sorted(UNITS.glob("ratls-enclave*.service")):
        [asked] = re.findall(r"^ExecStartPre=(.+)$", unit.read_text("utf-8"), re.MULTILINE)
        assert asked.split() == ["/opt/ratls/tools/bin/ratls", *command[1:]]
    ratls = Path(sys.executable).parent / "ratls"
    done = subprocess.run([ratls, *command[1:]], capture_output=True, text=True, check=False)
    assert done.returncode in (Exit.YES, Exit.UNDECIDED, Exit.NOT_ADMITTED), done.stderr
