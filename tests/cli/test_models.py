"""Commands about models: what they ask of the daemon, and the tables they print."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Olla
from tests.cli.fake_daemon import SHOW, TAGS, FakeDaemon, Reply, failed


@pytest.mark.parametrize("name", ["list", "ls"])
def test_list_has_ollama_s_columns(olla: Olla, name: str) -> None:
    lines = olla(name).stdout.splitlines()

    assert lines[0].split() == ["NAME", "ID", "SIZE", "MODIFIED"]
    assert lines[1].startswith("smollm2:135m    aaaaaaaaaaaa    98 MB    ")
    assert lines[1].rstrip().endswith("years ago")


def test_list_without_models_is_the_header(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("GET /api/tags", Reply([{"models": []}]))

    assert olla("list").stdout == "NAME    ID    SIZE    MODIFIED    \n"


@pytest.mark.parametrize(("prefix", "num_lines"), [("SMOL", 2), ("x", 1)])
def test_list_takes_a_prefix_in_any_case(olla: Olla, prefix: str, num_lines: int) -> None:
    assert len(olla("list", prefix).stdout.splitlines()) == num_lines


def test_list_shows_no_size_of_a_remote_model(olla: Olla, daemon: FakeDaemon) -> None:
    model = {**TAGS["models"][0], "remote_model": "x"}
    daemon.script("GET /api/tags", Reply([{"models": [model]}]))

    assert "aaaaaaaaaaaa    -       " in olla("list").stdout


@pytest.mark.parametrize(
    ("expires_at", "until"),
    [("2318-01-01T00:00:00Z", "Forever"), ("2020-01-01T00:00:00Z", "Stopping...")],
)
def test_ps_has_ollama_s_columns(
    olla: Olla, daemon: FakeDaemon, expires_at: str, until: str
) -> None:
    model = {
        "name": "m:latest",
        "digest": "b" * 64,
        "size": 2_000_000_000,
        "size_vram": 0,
        "context_length": 4096,
        "expires_at": expires_at,
    }
    daemon.script("GET /api/ps", Reply([{"models": [model]}]))

    header, row = olla("ps").stdout.splitlines()

    assert len(daemon.sent("GET /api/ps")) == 1
    assert header.split() == ["NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"]
    assert [cell.strip() for cell in row.split("    ") if cell.strip()] == [
        "m:latest",
        "bbbbbbbbbbbb",
        "2 GB",
        "100% CPU",
        "4096",
        until,
    ]
    assert len(olla("ps", "M").stdout.splitlines()) == 1


def test_ps_shows_a_base_once_with_its_adapters(olla: Olla, daemon: FakeDaemon) -> None:
    def loaded(name: str, **fields: str) -> dict[str, object]:
        return {
            "name": name,
            "digest": name[0] * 64,
            "size": 1_000_000_000,
            "size_vram": 0,
            "context_length": 4096,
            "expires_at": "2318-09-14T22:47:16.854775807Z",
            **fields,
        }

    models = [
        loaded("a:latest", adapter_of="m:latest"),
        loaded("m:latest"),
        loaded("c:latest", adapter_of="n:latest"),
        loaded("b:latest", adapter_of="m:latest"),
    ]
    daemon.script("GET /api/ps", Reply([{"models": models}]))

    rows = [line.split("  ")[0].strip() for line in olla("ps").stdout.splitlines()[1:]]

    assert rows == ["m:latest", "+ a:latest", "+ b:latest", "n:latest", "+ c:latest"]


def test_stop_is_silent(olla: Olla, daemon: FakeDaemon) -> None:
    done = olla("stop", "m")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert daemon.requests[-1].json == {"model": "m", "keep_alive": 0}


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (failed(404, "model 'x' not found"), 'couldn\'t find model "x" to stop'),
        (failed(500, "broken"), "500 Internal Server Error: broken"),
    ],
)
def test_stop_tells_what_failed(olla: Olla, daemon: FakeDaemon, reply: Reply, text: str) -> None:
    daemon.script("POST /api/generate", reply)

    done = olla("stop", "x")

    assert (done.returncode, done.stderr) == (1, f"Error: {text}\n")


def test_cp_says_what_it_copied(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/copy", Reply())

    assert olla("cp", "a", "b").stdout == "copied 'a' to 'b'\n"


def test_cp_of_a_missing_model_is_the_bare_error(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/copy", failed(404, 'model "a" not found'))

    done = olla("cp", "a", "b")

    assert (done.returncode, done.stderr) == (1, 'Error: model "a" not found\n')


def test_rm_deletes_each_model(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("DELETE /api/delete", Reply())

    done = olla("rm", "a", "b")

    assert done.stdout == "deleted 'a'\ndeleted 'b'\n"
    sent = [request.json for request in daemon.requests if request.body]
    assert sent == [{"model": "a"}, {"model": "b"}]


def test_rm_stops_at_the_first_error(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("DELETE /api/delete", failed(404, "model 'a' not found"))

    done = olla("rm", "a", "b")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: model 'a' not found\n"
    assert len(daemon.sent("DELETE /api/delete")) == 1


def test_show_has_ollama_s_blocks(olla: Olla) -> None:
    assert olla("show", "m").stdout == (
        "  Model\n"
        "    architecture        llama      \n"
        "    parameters          134.52M    \n"
        "    context length      8192       \n"
        "    embedding length    576        \n"
        "    quantization        Q4_1       \n"
        "\n"
        "  Capabilities\n"
        "    completion    \n"
        "\n"
        "  Parameters\n"
        '    stop           "<|im_end|>"    \n'
        "    temperature    0.5             \n"
        "\n"
        "  System\n"
        "    Be brief.    \n"
        "\n"
        "  License\n"
        "    First line     \n"
        "    second line    \n"
        "    ...            \n"
        "\n"
    )


def test_show_verbose_adds_metadata_and_tensors(olla: Olla, daemon: FakeDaemon) -> None:
    info = {
        "z.number": 0.00001,
        "a.list": [111, 222, 333, 444],
        "b.words": ["one"],
        "c.flag": True,
        "d.left_out": None,
    }
    tensors = [{"name": "output.weight", "type": "Q4_1", "shape": [576, 49152]}]
    daemon.script("POST /api/show", Reply([{**SHOW, "model_info": info, "tensors": tensors}]))

    text = olla("show", "m", "-v").stdout

    assert daemon.requests[-1].json == {"model": "m", "verbose": True}
    assert (
        "  Metadata\n"
        "    a.list        [111 222 ...+2 more]    \n"
        "    b.words       [one]                   \n"
        "    c.flag        true                    \n"
        "    d.left_out                            \n"
        "    z.number      1e-05                   \n" in text
    )
    assert "  Tensors\n    output.weight    Q4_1    [576 49152]    \n" in text


def test_show_falls_back_on_the_parameter_count(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", Reply([{**SHOW, "details": {"family": "llama"}}]))

    assert "    parameters          134.52M    \n" in olla("show", "m").stdout


def test_show_of_a_model_with_a_projector(olla: Olla, daemon: FakeDaemon) -> None:
    projector = {
        "general.architecture": "clip",
        "general.parameter_count": 2_800_000_000,
        "clip.vision.embedding_length": 1024,
        "clip.vision.projection_dim": 768,
    }
    daemon.script("POST /api/show", Reply([{**SHOW, "projector_info": projector}]))

    assert (
        "  Projector\n"
        "    architecture        clip    \n"
        "    parameters          2.8B    \n"
        "    embedding length    1024    \n"
        "    dimensions          768     \n" in olla("show", "m").stdout
    )


def test_show_of_a_model_with_adapters(olla: Olla, daemon: FakeDaemon) -> None:
    adapters = [
        {"format": "peft", "scale": 0.75, "size": 1_900_000},
        {"format": "gguf", "scale": 1.0, "size": 512},
    ]
    details = {**SHOW["details"], "parent_model": "smollm2:135m"}
    daemon.script("POST /api/show", Reply([{**SHOW, "details": details, "adapters": adapters}]))

    assert (
        "  Adapters\n"
        "    base       smollm2:135m\n"
        "    adapter    peft            1.9 MB    scale 0.75\n"
        "    adapter    gguf            512 B     scale 1\n"
        "\n" in re.sub(" +\n", "\n", olla("show", "m").stdout)
    )


@pytest.mark.parametrize(
    ("flag", "output"),
    [
        ("--license", SHOW["license"] + "\n"),
        ("--modelfile", SHOW["modelfile"] + "\n"),
        ("--parameters", SHOW["parameters"] + "\n"),
        ("--system", SHOW["system"]),
        ("--template", SHOW["template"]),
    ],
)
def test_show_of_one_part_is_raw(olla: Olla, flag: str, output: str) -> None:
    assert olla("show", "m", flag).stdout == output


def test_show_of_a_missing_model_is_the_bare_error(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("POST /api/show", failed(404, "model 'x:latest' not found"))

    done = olla("show", "x")

    assert (done.returncode, done.stderr) == (1, "Error: model 'x:latest' not found\n")
