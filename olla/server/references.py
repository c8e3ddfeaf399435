"""What a request's `model` means: a name, and where the model is to run (spec/api.md 1.4).

`:cloud` asks for Ollama's cloud, which olla has no part in; `:local` asks for what is here,
which is all there is.
"""

from __future__ import annotations

from olla.errors import BadInput, CloudDisabled, InvalidName
from olla.names import ModelName

_NUM_SUFFIX = len(":cloud")


def local_text(text: str, *, details: bool = False) -> str:
    """The name of a model to use, without its source; `details`: it is only asked about.

    Raises:
        BadInput: two sources.
        CloudDisabled: a cloud model.
    """
    rest, source = _split(text.strip())
    if not source:
        return rest
    if _split(rest)[1]:
        raise BadInput(f'use either :local or :cloud, not both: "{text}"')
    if source == "cloud":
        what = "remote model details are" if details else "remote model is"
        raise CloudDisabled(f"{what} unavailable")
    return rest


def local_name(text: str, *, details: bool = False) -> ModelName:
    """
    Raises:
        InvalidName: no name; the rest as `local_text`.
    """
    return ModelName.parse(local_text(text, details=details))


def plain_name(text: str, error: str) -> ModelName:
    """A name that is only looked up here. Raises BadInput with the route's own sentence."""
    try:
        return ModelName.parse(text)
    except InvalidName as invalid:
        raise BadInput(error) from invalid


def _split(text: str) -> tuple[str, str]:
    """What is left without its source, and the source; "" when it names none."""
    rest, suffix = text[:-_NUM_SUFFIX], text[-_NUM_SUFFIX:].lower()
    if suffix in {":cloud", ":local"}:
        return rest, suffix[1:]
    has_tag = rest.rfind(":") > rest.rfind("/")
    return (rest, "cloud") if suffix == "-cloud" and has_tag else (text, "")
