"""`olla create`: a Modelfile, or --from and --adapter, into the daemon's create request.

Paths become blobs here, hashed and uploaded: the daemon never opens a path that a caller names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import click

from olla.cli.cobra import command, exactly
from olla.cli.daemon import connect
from olla.cli.terminal import Show, progress_bars
from olla.client import Client
from olla.errors import BadInput, InvalidName
from olla.modelfile.files import check_header, collect_adapter, collect_files, expand, split_scale
from olla.modelfile.parse import Command, CommandName, Modelfile, parse_modelfile
from olla.names import ModelName
from olla.quantization import check_draft_quantization, check_quantization
from olla.requests import CreateRequest, Progress
from olla.settings import Settings

_DEFAULT_FILE = "Modelfile"
_CHUNK_BYTES = 1 << 20
_PATH_STARTS = ("/", "./", "../", "~")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The request but for its blobs, and the files on disk that become them."""

    request: CreateRequest
    files: Mapping[str, Path] = field(default_factory=dict)
    adapters: Mapping[str, Path] = field(default_factory=dict)
    draft_files: Mapping[str, Path] = field(default_factory=dict)


@command("create", exactly(1))
@click.argument("model", metavar="MODEL", required=False)
@click.option("-f", "--file", metavar="PATH", help='Modelfile to read (default "Modelfile").')
@click.option("--from", "base", metavar="BASE", help="Model, file or folder, without a Modelfile.")
@click.option(
    "--adapter",
    "adapters",
    metavar="PATH",
    multiple=True,
    help="Adapter to lay over BASE: a folder of peft's or a GGUF file; again for more.",
)
@click.option("-q", "--quantize", metavar="TYPE", default="", help="Such as q8_0, q4_k_m or nf4.")
@click.option(
    "--draft-quantize", metavar="TYPE", default="", help="The same for the model of DRAFT."
)
@click.option("--force", is_flag=True, help="Take a base that an adapter names otherwise.")
@click.pass_obj
def create(
    settings: Settings,
    model: str,
    file: str | None,
    base: str | None,
    adapters: tuple[str, ...],
    quantize: str,
    draft_quantize: str,
    force: bool,
) -> None:
    """Create a model.

    From a Modelfile, or from BASE and an adapter. Weights are copied into the server's store.
    """
    _check_name(model)
    if quantize:
        check_quantization(quantize)
    if base or adapters:
        modelfile, folder = _from_options(file, base, adapters), Path.cwd()
    else:
        modelfile, folder = _read_modelfile(file)
    for warning in modelfile.warnings:
        click.echo(warning, err=True)
    recipe = read_recipe(model, modelfile, folder)
    _check_draft_quantize(draft_quantize, recipe)
    request = replace(recipe.request, quantize=quantize, draft_quantize=draft_quantize, force=force)
    recipe = replace(recipe, request=request)
    client = connect(settings)
    _tell_of_shadows(client, modelfile, folder)
    with progress_bars() as show:
        for progress in client.create(_upload(client, recipe, show)):
            show(progress)


def read_recipe(model: str, modelfile: Modelfile, folder: Path) -> Recipe:
    """Find the files that FROM, ADAPTER and DRAFT mean; paths are relative to `folder`.

    Raises:
        BadInput: a path that does not exist, or is no model; a command that is not supported.
    """
    base, files = "", dict[str, Path]()
    for text in modelfile.bases:
        path = expand(text, folder)
        if path.exists():
            files |= collect_files(path)
        elif text.startswith(_PATH_STARTS):
            raise BadInput(f"{text}: no such file or directory")
        else:
            base = text
    adapters, scales = _adapter_files(modelfile.adapters, folder)
    request = replace(_request(model, base, modelfile), adapter_scales=scales)
    return Recipe(request, files, adapters, _draft_files(modelfile.drafts, files, folder))


def _draft_files(
    lines: tuple[str, ...], files: Mapping[str, Path], folder: Path
) -> dict[str, Path]:
    """The files of the model that drafts."""
    if not lines:
        return {}
    if len(lines) > 1:
        raise BadInput(f"one model can draft, but DRAFT is given {len(lines)} times: keep one")
    found = collect_files(_draft_path(lines[0], folder))
    if any(file.samefile(own) for file in found.values() for own in files.values()):
        raise BadInput(f"DRAFT must not reference the same local path as FROM: {lines[0]}")
    return found


def _draft_path(text: str, folder: Path) -> Path:
    path = expand(text, folder)
    if not path.exists():
        if text.startswith(_PATH_STARTS):
            raise BadInput(f"{text}: no such file or directory")
        raise BadInput(f"DRAFT {text}: no such file; DRAFT takes a GGUF file, not a model's name")
    if not path.is_dir():
        return path
    ggufs = tuple(path.glob("*.gguf"))
    if len(ggufs) != 1:
        raise BadInput(
            f"DRAFT {text}: DRAFT takes a GGUF file, not a folder with {len(ggufs)} of them"
        )
    return ggufs[0]


def _adapter_files(
    lines: tuple[str, ...], folder: Path
) -> tuple[dict[str, Path], dict[str, float]]:
    """The adapters' files, each adapter's in a folder of its own, and the folders' scales."""
    files: dict[str, Path] = {}
    scales: dict[str, float] = {}
    for number, line in enumerate(lines):
        text, scale = split_scale(line, folder)
        path = expand(text, folder)
        if not path.exists():
            raise BadInput(f"{text}: no such file or directory")
        is_plain = len(lines) == 1 and scale == 1.0  # what Ollama takes too
        prefix = "" if is_plain else f"{number}/"
        files |= {f"{prefix}{name}": found for name, found in collect_adapter(path).items()}
        if scale != 1.0:
            scales[str(number)] = scale
    return files, scales


def _request(model: str, base: str, modelfile: Modelfile) -> CreateRequest:
    return CreateRequest(
        model=model,
        base=base,
        template=modelfile.template,
        system=modelfile.system,
        renderer=modelfile.renderer,
        parser=modelfile.parser,
        requires=modelfile.requires,
        licenses=modelfile.licenses,
        parameters=modelfile.parameters,
        messages=modelfile.messages,
    )


def _check_name(model: str) -> None:
    try:
        ModelName.parse(model)
    except InvalidName as error:
        raise BadInput(f"invalid model name: {model}") from error


def _check_draft_quantize(text: str, recipe: Recipe) -> None:
    if text and not recipe.draft_files:
        raise BadInput("--draft-quantize requires a DRAFT model")
    if text:
        check_draft_quantization(text)


def _from_options(file: str | None, base: str | None, adapters: tuple[str, ...]) -> Modelfile:
    if file:
        raise click.UsageError("--file cannot be used with --from or --adapter")
    if not base:
        raise click.UsageError("--adapter needs --from, the model that it was made for")
    commands = (Command(CommandName.ADAPTER, adapter) for adapter in adapters)
    return Modelfile((Command(CommandName.MODEL, base), *commands))


def _read_modelfile(file: str | None) -> tuple[Modelfile, Path]:
    """The Modelfile and its folder; without one, whatever model the current folder holds."""
    path = Path(file or _DEFAULT_FILE).absolute()
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        if file:
            raise BadInput("specified Modelfile wasn't found") from error
        return Modelfile((Command(CommandName.MODEL, "."),)), path.parent
    return parse_modelfile(data), path.parent


def _tell_of_shadows(client: Client, modelfile: Modelfile, folder: Path) -> None:
    """A path goes before a stored model of the same name, as in Ollama, but not in silence."""
    plain = [text for text in modelfile.bases if not text.startswith(_PATH_STARTS)]
    shadows = [text for text in plain if expand(text, folder).exists()]
    stored = {model.name for model in client.list()} if shadows else set[str]()
    for text in shadows:
        with suppress(InvalidName):
            if ModelName.parse(text).short in stored:
                kind = "folder" if expand(text, folder).is_dir() else "file"
                click.echo(f"taking the {kind} ./{text}, not the model {text}", err=True)


def _upload(client: Client, recipe: Recipe, show: Show) -> CreateRequest:
    """Bring every file to the daemon; the request names them by digest."""
    show(Progress("gathering model components"))

    def upload(paths: Mapping[str, Path]) -> dict[str, str]:
        return {name: _upload_file(client, path, show) for name, path in paths.items()}

    return replace(
        recipe.request,
        files=upload(recipe.files),
        adapters=upload(recipe.adapters),
        draft_files=upload(recipe.draft_files),
    )


def _upload_file(client: Client, path: Path, show: Show) -> str:
    check_header(path)
    size_bytes = path.stat().st_size
    digest = _hash_file(path, size_bytes, show)

    def report(sent_bytes: int) -> None:
        show(Progress(f"copying file {digest}", digest, size_bytes, sent_bytes))

    client.upload_blob(digest, path, report)
    return digest


def _hash_file(path: Path, size_bytes: int, show: Show) -> str:
    sha256 = hashlib.sha256()
    hashed_bytes = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            hashed_bytes += len(chunk)
            show(Progress(f"hashing {path.name}", "", size_bytes, hashed_bytes))
    return f"sha256:{sha256.hexdigest()}"
