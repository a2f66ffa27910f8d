"""Signed documents as tests take them apart: what stands in them, whoever signed."""

from __future__ import annotations

from typing import TypeVar

from policy.envelope import Envelope, strict_json
from policy.statement import Statement

S = TypeVar("S", bound=Statement)


def contents(kind: type[S], raw: bytes) -> S:
    """The fields of a document, to be changed and sealed again; its signature is not checked."""
    return kind.model_validate(strict_json(Envelope.parse(raw).payload, kind.noun))
