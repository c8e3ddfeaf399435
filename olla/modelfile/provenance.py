"""What an adapter says of the model it was trained on, beside where its base came from.

Tells, and never refuses: one model has many names, and what surely does not fit has other shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from olla.registry.manifest import ModelConfig

_COMMIT = re.compile(r"[0-9a-f]{40}")
# What mirrors put behind the name of the model that they offer in another form.
_FORM = re.compile(r"(-(unsloth|bnb|[48]bit|gguf|hf|bf16|fp16|f16))+$")


def base_warning(adapter: Mapping[str, Any], base: ModelConfig) -> str:
    """A sentence, if an adapter_config.json names another model than the base; else "".

    A path of somebody's machine says nothing, and neither does a base that came from no hub. The
    same name under another organization is taken for a mirror.
    """
    trained_on = adapter.get("base_model_name_or_path")
    if not isinstance(trained_on, str) or not base.repository or not _is_repository(trained_on):
        return ""
    if _model(trained_on) != _model(base.repository):
        return (
            f"warning: the adapter was trained on {trained_on}, but the base is "
            f"{base.repository}; unless these are one model, its replies will be poor"
        )
    revision = adapter.get("revision")
    both = [text for text in (revision, base.revision) if isinstance(text, str)]
    is_same_place = base.repository.lower().endswith(f"/{trained_on.lower()}")
    are_commits = len(both) == 2 and all(_COMMIT.fullmatch(text) for text in both)
    if is_same_place and are_commits and revision != base.revision:
        return (
            f"warning: the adapter was trained on revision {revision} of {trained_on}, but the "
            f"base is of revision {base.revision}; pull {base.repository}:{revision} to have it"
        )
    return ""


def _is_repository(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))


def _model(name: str) -> str:
    return _FORM.sub("", name.rpartition("/")[2].lower())
