"""Bodies of olla's own routes about the store: verify, gc and import. JSON -> values."""

from __future__ import annotations

from dataclasses import dataclass

from olla.api.json_fields import parse_fields
from olla.errors import BadInput


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """`models` empty means all."""

    models: tuple[str, ...] = ()
    stream: bool = True


@dataclass(frozen=True, slots=True)
class GcRequest:
    """`everything`: files too that are so young that somebody may be about to use them."""

    dry_run: bool = False
    everything: bool = False


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """`manifest` is the text whose bytes are stored."""

    model: str
    manifest: str


def verify_from_json(body: bytes) -> VerifyRequest:
    fields = parse_fields(body or b"{}", "VerifyRequest")
    return VerifyRequest(fields.texts("models"), fields.flag("stream", default=True))


def gc_from_json(body: bytes) -> GcRequest:
    fields = parse_fields(body or b"{}", "GcRequest")
    return GcRequest(fields.flag("dry_run"), fields.flag("all"))


def import_from_json(body: bytes) -> ImportRequest:
    fields = parse_fields(body, "ImportRequest")
    request = ImportRequest(fields.text("model"), fields.text("manifest"))
    if not (request.model and request.manifest):
        raise BadInput("model and manifest are required")
    return request
