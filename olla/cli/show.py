"""`olla show`: what a model is made of, as blocks, or one part of it as it is.

The layout is spec/cli.md section 3.2.
"""

from __future__ import annotations

import click

from olla.cli.cobra import command, exactly
from olla.cli.daemon import connect
from olla.cli.model_names import complete_models
from olla.cli.text import format_block, format_count, format_size
from olla.client.replies import ShownModel
from olla.settings import Settings

_PARTS = ("license", "modelfile", "parameters", "system", "template")
_ARRAY_WIDTH = 10

Rows = list[tuple[str, ...]]


@command("show", exactly(1))
@click.argument("model", metavar="MODEL", required=False, shell_complete=complete_models)
@click.option("--license", is_flag=True, help="Show the license.")
@click.option("--modelfile", is_flag=True, help="Show the Modelfile.")
@click.option("--parameters", is_flag=True, help="Show the parameters.")
@click.option("--system", is_flag=True, help="Show the system message.")
@click.option("--template", is_flag=True, help="Show the template.")
@click.option("-v", "--verbose", is_flag=True, help="Show the metadata and the tensors too.")
@click.pass_obj
def show(settings: Settings, /, model: str, verbose: bool, **parts: bool) -> None:
    """Show what a model is made of."""
    chosen = [name for name in _PARTS if parts[name]]
    if len(chosen) > 1:
        raise click.UsageError(
            "only one of '--license', '--modelfile', '--parameters', '--system', or '--template' "
            "can be specified"
        )
    shown = connect(settings).show(model, verbose=verbose)
    if chosen:
        # As in Ollama: these two are written as they are, without a newline of our own.
        click.echo(getattr(shown, chosen[0]), nl=chosen[0] not in {"system", "template"})
    else:
        click.echo(format_info(shown, verbose=verbose), nl=False)


def format_info(shown: ShownModel, *, verbose: bool = False) -> str:
    blocks: list[tuple[str, Rows]] = [
        ("Model", _model_rows(shown)),
        ("Capabilities", [(name,) for name in shown.capabilities]),
        ("Projector", _projector_rows(shown)),
        ("Draft", _draft_rows(shown)),
        ("Adapters", _adapter_rows(shown)),
        ("Parameters", [tuple(line.split()) for line in shown.parameters.splitlines()]),
        ("Metadata", _metadata_rows(shown) if verbose else []),
        ("Tensors", _tensor_rows(shown) if verbose else []),
        ("System", _first_lines(shown.system)),
        ("License", _first_lines(shown.license)),
    ]
    return "".join(format_block(title, rows) for title, rows in blocks if rows)


def _model_rows(shown: ShownModel) -> Rows:
    info = shown.model_info
    architecture = str(info.get("general.architecture") or shown.family)
    count = info.get("general.parameter_count")
    return _filled(
        ("Remote model", shown.remote_model),
        ("Remote URL", shown.remote_host),
        ("architecture", architecture),
        ("parameters", shown.parameter_size or (format_count(count) if count else "")),
        ("context length", info.get(f"{architecture}.context_length")),
        ("embedding length", info.get(f"{architecture}.embedding_length")),
        ("quantization", shown.quantization),
        ("requires", shown.requires),
    )


def _projector_rows(shown: ShownModel) -> Rows:
    info = shown.projector_info
    architecture = info.get("general.architecture", "")
    count = info.get("general.parameter_count")
    return _filled(
        ("architecture", architecture),
        ("parameters", format_count(count) if count else ""),
        ("embedding length", info.get(f"{architecture}.vision.embedding_length")),
        ("dimensions", info.get(f"{architecture}.vision.projection_dim")),
    )


def _draft_rows(shown: ShownModel) -> Rows:
    info = shown.draft_info
    count = info.get("general.parameter_count")
    return _filled(
        ("architecture", info.get("general.architecture")),
        ("parameters", format_count(count) if count else ""),
    )


def _adapter_rows(shown: ShownModel) -> Rows:
    if not shown.adapters:
        return []
    return _filled(("base", shown.parent)) + [
        ("adapter", adapter.format, format_size(adapter.size_bytes), f"scale {adapter.scale:g}")
        for adapter in shown.adapters
    ]


def _filled(*rows: tuple[str, object]) -> Rows:
    return [(name, str(value)) for name, value in rows if value]


def _metadata_rows(shown: ShownModel) -> Rows:
    return [(name, _format_value(value)) for name, value in sorted(shown.model_info.items())]


def _tensor_rows(shown: ShownModel) -> Rows:
    return [
        (tensor.name, tensor.type, f"[{' '.join(map(str, tensor.shape))}]")
        for tensor in shown.tensors
    ]


def _format_value(value: object) -> str:
    match value:
        case list():
            return _format_array([_format_value(item) for item in value])
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case None:
            return ""
        case _:
            return str(value)


def _format_array(items: list[str]) -> str:
    """As many items as fit the width, at least one, and how many more there are."""
    num_shown, used = 0, 1
    for item in items:
        if num_shown and used + len(item) > _ARRAY_WIDTH:
            break
        used += len(item) + 1
        num_shown += 1
    shown = " ".join(items[:num_shown])
    rest = len(items) - num_shown
    return f"[{shown} ...+{rest} more]" if rest else f"[{shown}]"


def _first_lines(text: str) -> Rows:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return [(line,) for line in (*lines[:2], *(["..."] if len(lines) > 2 else []))]
