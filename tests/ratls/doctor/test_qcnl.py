"""The quote provider's configuration: what Intel's library would read otherwise is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratls.doctor.qcnl import MAX_SIZE, Qcnl, QcnlMalformed
from tests.support.refusal import count_refusal, refused

URL = "https://pccs.example:8081/sgx/certification/v4/"
INSTALLED = """{
  // *** ATTENTION : This file is in JSON format so the keys are case sensitive.
  "pccs_url": "https://localhost:8081/sgx/certification/v4/",  // "not": "a key"
  /* a block
     of "words" */
  "use_secure_cert": true,
  "retry_times": 6, "retry_delay": 10,
  "local_pck_url": "http://169.254.169.254/metadata/THIM/sgx/certification/v4/",
  "pck_cache_expire_hours": 168,
  "custom_request_options": {"get_cert": {"headers": {"metadata": "true"}}}
}
"""
SECRET = "canary-c4n4ry"


def test_the_file_as_it_is_installed() -> None:
    found = Qcnl.parse(INSTALLED.encode())
    assert (
        found.pccs_url == found.collateral_service == "https://localhost:8081/sgx/certification/v4/"
    )
    assert found.use_secure_cert
    assert found.values["retry_delay"] == 10


def test_the_older_form() -> None:
    text = f"# PCCS\nPCCS_URL={URL}\n\nUSE_SECURE_CERT=FALSE\nRETRY_TIMES=3\n"
    found = Qcnl.parse(text.encode())
    assert (found.pccs_url, found.use_secure_cert, found.values["retry_times"]) == (URL, False, 3)


@pytest.mark.parametrize("text", ["", "# nothing\n", "{}", " {/* nothing */}"])
def test_what_is_not_said_is_what_the_library_takes(text: str) -> None:
    found = Qcnl.parse(text.encode())
    assert found.pccs_url == "https://localhost:8081/sgx/certification/v4/"
    assert found.use_secure_cert


def test_collateral_from_elsewhere() -> None:
    text = json.dumps({"pccs_url": URL, "collateral_service": "https://x/sgx/certification/v4"})
    assert Qcnl.parse(text.encode()).collateral_service == "https://x/sgx/certification/v4"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param('{"pccs_url": "https://x/",}', id="trailing-comma"),
        pytest.param('{"pccs_url": "https://x/" "use_secure_cert": true}', id="missing-comma"),
        pytest.param('{"use_secure_cert": true, "use_secure_cert": false}', id="twice"),
        pytest.param('{"use_secure_cert": "false"}', id="text-for-a-flag"),
        pytest.param('{"use_secure_cert": 0}', id="number-for-a-flag"),
        pytest.param('{"use_secure_certs": false}', id="misspelt"),
        pytest.param('{"Use_Secure_Cert": false}', id="another-case"),
        pytest.param('{"retry_times": true}', id="flag-for-a-number"),
        pytest.param('{"retry_times": "6"}', id="text-for-a-number"),
        pytest.param('{"retry_times": -1}', id="negative"),
        pytest.param('{"pck_cache_expire_hours": 2161}', id="would-be-cut"),
        pytest.param('{"pck_cache_expire_hours": 1.5}', id="fraction"),
        pytest.param('{"pccs_url": "https://x"}', id="address-without-path"),
        pytest.param('{"pccs_url": "x:8081/sgx/"}', id="address-without-scheme"),
        pytest.param('{"pccs_url": "https://u:p@x/sgx/"}', id="password"),
        pytest.param('{"pccs_url": "https://x/sgx/?key=1"}', id="query"),
        pytest.param('{"pccs_url": "https://x/\\n/"}', id="line-end"),
        pytest.param('{"pccs_url": null}', id="null"),
        pytest.param('{"tcb_update_type": "late"}', id="no-such-type"),
        pytest.param('{"pccs_api_version": "4.0"}', id="no-such-version"),
        pytest.param('{"custom_request_options": []}', id="options-in-a-list"),
        pytest.param('{"a": 1} {"b": 2}', id="two-objects"),
        pytest.param("[]", id="list"),
        pytest.param("{/* never closed }", id="open-comment"),
        pytest.param('{"pccs_url": "https://x/} // "', id="open-text"),
        pytest.param("{" * 3000, id="deep"),
        pytest.param("{/*/", id="comment-of-three"),
        pytest.param("{" + "/*" * (MAX_SIZE // 2 - 1), id="open-comments"),
        pytest.param('{"' + '\\"' * (MAX_SIZE // 2 - 2) + "\\", id="escaped-quotes"),
        pytest.param("{" + '"\n' * (MAX_SIZE // 2 - 1), id="open-texts"),
        pytest.param("\ufeff{}", id="byte-order-mark"),
        pytest.param(f"PCCS_URL={URL}\nPCCS_URL={URL}", id="line-twice"),
        pytest.param("USE_SECURE_CERT=False", id="line-flag"),
        pytest.param("USE_SECURE_CERT FALSE", id="line-without-sign"),
        pytest.param("PCS_URL=https://x/", id="line-of-an-older-name"),
        pytest.param("RETRY_TIMES=six", id="line-number"),
        pytest.param("CUSTOM_REQUEST_OPTIONS={}", id="line-of-the-other-form"),
        pytest.param("{" + " " * MAX_SIZE + "}", id="too-large"),
    ],
)
def test_what_the_library_would_not_read_as_meant(text: str) -> None:
    """It would go on with its defaults, or with the first of two, and say nothing."""
    with refused(QcnlMalformed):
        Qcnl.parse(text.encode())


def test_other_bytes() -> None:
    with refused(QcnlMalformed):
        Qcnl.parse(b'{"pccs_url": "\xff"}')


@pytest.mark.parametrize(
    "text",
    [
        f'{{"pccs_url": "https://u:{SECRET}@x/sgx/"}}',
        f'{{"pccs_url": "https://x/sgx/?subscription-key={SECRET}"}}',
        f'{{"local_pck_url": "{SECRET}"}}',
        f'{{"{SECRET}": 1}}',
        f'{{"use_secure_cert": "{SECRET}"}}',
        f'{{"tcb_update_type": "{SECRET}"}}',
        f"{SECRET}",
        f"PCCS_URL={SECRET}",
        f'{{"pccs_url" "{SECRET}"}}',
    ],
)
def test_no_value_stands_in_a_refusal(text: str) -> None:
    """L03: what the doctor says, and what it collects, is sent to others."""
    with refused(QcnlMalformed) as seen:
        Qcnl.parse(text.encode())
    assert SECRET not in str(seen.error)


def test_headers_for_a_cloud_are_not_kept() -> None:
    text = INSTALLED.replace('"true"', f'"{SECRET}"')
    assert SECRET not in Qcnl.parse(text.encode()).text()


KEYS = st.sampled_from(
    ["pccs_url", "use_secure_cert", "collateral_service", "retry_times", "tcb_update_type", "x"]
)
VALUES = st.one_of(
    st.sampled_from([URL, True, False, 0, 6, "early", None, {}, -1, 10**30, 1.5]), st.text()
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_what_is_kept_reads_as_the_same(values: dict[str, object]) -> None:
    """Or the whole is refused: a part is never left out."""
    count_refusal()
    try:
        found = Qcnl.parse(json.dumps(values).encode())
    except QcnlMalformed:
        return
    assert dict(found.values) == values
    assert Qcnl.parse(found.text().encode()) == found


@given(st.lists(st.sampled_from([*'{}[]:,"\\/* \n', "//", "/*", "*/", '"pccs_url"', "true", "1"])))
def test_comments_hide_nothing(parts: list[str]) -> None:
    """Whatever stands in them: an object, or a typed refusal."""
    count_refusal()
    try:
        Qcnl.parse("".join(["{", *parts]).encode())
    except QcnlMalformed as refusal:
        assert refusal.code  # noqa: PT017
