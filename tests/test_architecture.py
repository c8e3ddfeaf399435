"""Who may import whom, and how large things may grow.

`RULES` is the import table of docs/architecture.md as data. Every import statement of olla is
held against it, also those inside functions and those for type checkers only.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "olla"
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40


@dataclass(frozen=True)
class Rule:
    """What an area may import: areas or modules of olla, and third parties. Itself always."""

    olla: tuple[str, ...] = ()
    third_parties: tuple[str, ...] = ()


RULES = {
    "values": Rule(),
    "formats": Rule(("values",)),
    "gotemplate": Rule(("values",)),
    "registry": Rule(("values", "formats", "gotemplate")),
    "renderers": Rule(("values", "gotemplate", "registry.model"), ("jinja2",)),
    "parsers": Rule(("values", "gotemplate", "registry.model")),
    "modelfile": Rule(("values", "registry", "formats")),
    "sources": Rule(
        ("values", "registry", "formats", "modelfile"), ("aiohttp", "cryptography", "yarl")
    ),
    "runner": Rule(("values",), ("msgspec",)),
    "inference": Rule(("values", "registry", "renderers", "parsers", "runner")),
    "api": Rule(("values",), ("msgspec",)),
    "server": Rule(
        (
            "values",
            "formats",
            "registry",
            "renderers",
            "parsers",
            "modelfile",
            "sources",
            "runner",
            "inference",
            "api",
        ),
        ("aiohttp", "backports.zstd", "prometheus_client"),
    ),
    "client": Rule(("values", "modelfile.parse")),
    "cli": Rule(("values", "modelfile.parse", "modelfile.files", "client"), ("click",)),
    "engine": Rule(
        ("values", "formats", "runner.protocol"),
        (
            "torch",
            "transformers",
            "tokenizers",
            "gguf",
            "numpy",
            "PIL",
            "safetensors",
            "llguidance",
            "bitsandbytes",
        ),
    ),
    "runner.converter": Rule(
        ("values", "engine", "registry", "runner.protocol", "runner.conversion"), ("msgspec",)
    ),
    "runner.child": Rule(("values", "engine", "runner.protocol"), ("msgspec",)),
    "runner.__main__": Rule(("values", "runner.child")),
}

EXCEPTIONS = {
    "cli.export": Rule(("runner.conversion",)),
    "cli.serve": Rule(("server",)),
    "cli.repl": Rule(third_parties=("prompt_toolkit",)),
    "cli.terminal": Rule(third_parties=("rich",)),
    "sources.huggingface": Rule(third_parties=("huggingface_hub",)),
    "sources.huggingface_push": Rule(third_parties=("huggingface_hub",)),
    "sources.modelscope": Rule(third_parties=("modelscope_hub",)),
}
"""What single modules may import beyond what their area may."""

DISTRIBUTIONS = {"PIL": "pillow"}
"""What installs a module, where it is called otherwise."""

LAZY = {
    "values": ("tomllib",),
    "cli": ("cli", "client", "server", "rich", "prompt_toolkit"),
    "engine": ("engine", "torch", "transformers", "safetensors", "gguf", "bitsandbytes"),
    "renderers": ("renderers.jinja",),
    "runner.child": ("engine",),
    "runner.__main__": ("runner.child",),
    "sources": (
        "sources.huggingface",
        "sources.huggingface_push",
        "sources.key_pair",
        "sources.modelscope",
    ),
}
"""What an area may import inside functions: for start-up, never to dodge a ring."""

NEWER_STANDARD_LIBRARY = {"compression"}
"""Parts of it that the oldest Python we run on has not got."""

NOT_AT_START = ("asyncio", "concurrent", "multiprocessing")
"""Parts of the standard library too slow to import for the command line."""


@dataclass(frozen=True)
class Import:
    """One import statement: `target` is a module of olla without "olla.", or a foreign one."""

    importer: str
    line: int
    target: str
    is_ours: bool
    is_lazy: bool

    def __str__(self) -> str:
        return f"olla.{self.importer}:{self.line} imports {self.target}"


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def area_of(module: str) -> str:
    """The row of the table that a module stands in."""
    if module in RULES:
        return module
    first = module.partition(".")[0]
    if first in {"", "__main__"}:
        return "cli" if first else "values"
    return first if (PACKAGE / first).is_dir() else "values"


def statements(tree: ast.AST, is_lazy: bool = False) -> Iterator[tuple[ast.stmt, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, is_lazy
        inside = is_lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from statements(node, inside)


def targets(statement: ast.stmt) -> Iterator[str]:
    """The modules that an import statement names, as far as they can be told from names."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    if isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, "relative imports hide what is imported"
        for alias in statement.names:
            name = f"{statement.module}.{alias.name}"
            yield name if name.removeprefix("olla.") in FILES else str(statement.module)


def imports() -> Iterator[Import]:
    for module, path in FILES.items():
        for statement, is_lazy in statements(ast.parse(path.read_text(encoding="utf-8"))):
            for target in targets(statement):
                is_ours = target.partition(".")[0] == "olla"
                name = target.removeprefix("olla").removeprefix(".") if is_ours else target
                yield Import(module, statement.lineno, name, is_ours, is_lazy)


IMPORTS = tuple(dict.fromkeys(imports()))


def is_within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


def rules_for(module: str) -> tuple[Rule, ...]:
    return RULES[area_of(module)], EXCEPTIONS.get(module, Rule())


def is_allowed_of_ours(found: Import) -> bool:
    area = area_of(found.target)
    if area == area_of(found.importer):
        return True
    allowed = tuple(entry for rule in rules_for(found.importer) for entry in rule.olla)
    return area in allowed or is_within(found.target, allowed)


def report(found: list[Import]) -> str:
    return "\n".join(str(item) for item in found)


def test_every_directory_has_a_row_in_the_table() -> None:
    areas = {area_of(module) for module in FILES}

    assert areas <= set(RULES)


def test_modules_of_olla_are_imported_down_the_table_only() -> None:
    wrong = [item for item in IMPORTS if item.is_ours and not is_allowed_of_ours(item)]

    assert not wrong, report(wrong)


def test_third_parties_are_imported_where_the_table_says() -> None:
    wrong = [
        item
        for item in IMPORTS
        if not item.is_ours
        and item.target.partition(".")[0] not in sys.stdlib_module_names | NEWER_STANDARD_LIBRARY
        and not any(is_within(item.target, rule.third_parties) for rule in rules_for(item.importer))
    ]

    assert not wrong, report(wrong)


def test_imports_inside_functions_serve_start_up_only() -> None:
    wrong = [
        item
        for item in IMPORTS
        if item.is_lazy and not is_within(item.target, LAZY.get(area_of(item.importer), ()))
    ]

    assert not wrong, report(wrong)


def test_the_server_is_reached_inside_functions_only() -> None:
    wrong = [
        item
        for item in IMPORTS
        if area_of(item.importer) == "cli" and item.target.startswith("server") and not item.is_lazy
    ]

    assert not wrong, report(wrong)


def test_the_command_line_leaves_slow_parts_of_the_standard_library_alone() -> None:
    wrong = [
        item
        for item in IMPORTS
        if area_of(item.importer) in {"values", "client", "cli"}
        and is_within(item.target, NOT_AT_START)
    ]

    assert not wrong, report(wrong)


def test_no_module_imports_itself_through_others() -> None:
    edges: dict[str, set[str]] = {module: set() for module in FILES}
    for item in IMPORTS:
        if item.target in FILES and item.is_ours and not item.is_lazy:
            edges[item.importer].add(item.target)
    while leaves := [module for module, below in edges.items() if not below]:
        for leaf in leaves:
            del edges[leaf]
        for below in edges.values():
            below.difference_update(leaves)

    assert not edges, f"a ring among {sorted(edges)}"


def test_every_third_party_is_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = project["dependencies"] + project["optional-dependencies"]["cuda"]
    declared = {re.split(r"[<>=! ]", line)[0] for line in lines}
    rules = (*RULES.values(), *EXCEPTIONS.values())

    names = {name for rule in rules for name in rule.third_parties}
    assert {DISTRIBUTIONS.get(name, name).replace("_", "-") for name in names} == declared


@pytest.mark.parametrize("module", FILES)
def test_a_file_stays_readable(module: str) -> None:
    assert len(FILES[module].read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("module", FILES)
def test_a_function_stays_readable(module: str) -> None:
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]

    assert not long


@pytest.mark.parametrize("module", FILES)
def test_a_module_says_what_it_owns(module: str) -> None:
    text = FILES[module].read_text(encoding="utf-8")

    assert ast.get_docstring(ast.parse(text)) or not text
