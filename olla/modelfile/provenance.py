"""What an adapter says of the model it was trained on, beside where its base came from.

Refuses what is known to be another model, tells of what may be one, and is silent where it cannot
know: a path of somebody's machine says nothing, and neither does a base that came from no hub.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from olla.errors import BadInput
from olla.registry.manifest import ModelConfig

_HUB = "hf.co"  # whose names and commits adapters record
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_BRANCHES = frozenset({"", "main", "master"})
# Organizations that offer other people's models, in the same form or another.
_MIRRORS = frozenset(
    {"unsloth", "bartowski", "lmstudio-community", "mradermacher", "thebloke", "ggml-org",
     "mlx-community", "modelscope", "ai-modelscope", "llm-research"}
)  # fmt: skip
# What is put behind the name of a model that is offered in another form.
_FORM = re.compile(
    r"([-._](unsloth|bnb|[2-8]-?bits?|gguf|i1|imat|hf|bf16|f(p)?(16|32)|fp8(-dynamic)?|awq|gptq|mlx"
    r"|exl2|int[48]|nf4|w[48]a(8|16)|quantized|i?q[1-8](_[0-9a-z]+)*))+$"
)
_FORCE = 'olla create --force, or "force": true in /api/create'


def check_base(adapter: Mapping[str, Any], base: ModelConfig, *, force: bool = False) -> str:
    """Compare the base that an adapter_config.json names with the one it is laid over.

    Returns:
        A warning, where the base may be another; "" where nothing is known against it.

    Raises:
        BadInput: it is another model, or another commit of the same repository; with `force`
            that is a warning too.
    """
    trained_on = adapter.get("base_model_name_or_path")
    if not isinstance(trained_on, str) or not base.repository or not _is_repository(trained_on):
        return ""
    revision = adapter.get("revision")
    if misfit := _misfit(trained_on, revision if isinstance(revision, str) else "", base):
        if not force:
            raise BadInput(f"{misfit}; if it is right nevertheless, say so: {_FORCE}")
        return f"warning: {misfit}"
    return _doubt(trained_on, revision if isinstance(revision, str) else "", base)


def _misfit(trained_on: str, revision: str, base: ModelConfig) -> str:
    """Why the base is surely another; "" if it may be the same."""
    if _model(trained_on, base.repository) != _model(base.repository, trained_on):
        return (
            f"the adapter was trained on {trained_on}, but the base is {base.repository}: lay it "
            f"over {trained_on} (olla pull {_HUB}/{trained_on})"
        )
    are_commits = all(_COMMIT.fullmatch(text) for text in (revision, base.revision))
    if _is_same_place(trained_on, base) and are_commits and revision != base.revision:
        return (
            f"the adapter was trained on revision {revision} of {trained_on}, but the base is of "
            f"revision {base.revision}: pull {base.repository}:{revision} to have it"
        )
    return ""


def _doubt(trained_on: str, revision: str, base: ModelConfig) -> str:
    if _is_same_place(trained_on, base):
        if revision in _DEFAULT_BRANCHES or base.revision.startswith(revision):
            return ""
        return (
            f"warning: the adapter was trained on revision {revision} of {trained_on}; the base is "
            f"of revision {base.revision}, which should be the same"
        )
    names = (trained_on.lower(), base.repository.lower())
    organizations = [name.split("/")[-2] for name in names]
    are_as_they_were = all(_FORM.search(name) is None for name in names)
    is_mirror = organizations[0] == organizations[1] or not _MIRRORS.isdisjoint(organizations)
    if is_mirror or not are_as_they_were:
        return ""
    return (
        f"warning: the adapter was trained on {trained_on}, but the base is {base.repository}; "
        "unless these are one model, its replies will be poor"
    )


def _is_repository(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(parts) and not name.startswith((".", "~"))


def _is_same_place(trained_on: str, base: ModelConfig) -> bool:
    return base.repository.lower() == f"{_HUB}/{trained_on}".lower()


def _model(name: str, other: str) -> str:
    """What is left of a repository's name without its organization, form and punctuation."""
    own = name.lower().split("/")[-1].removeprefix(f"{other.lower().split('/')[-2]}_")
    return re.sub(r"[-._]", "", _FORM.sub("", own).removeprefix("meta-"))
