"""`olla create`: which files are uploaded, what is asked, and what is refused before that."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, Reply, failed

CREATED = Reply([{"status": "writing manifest"}, {"status": "success"}])
WEIGHTS = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)  # no tensors, no metadata
Blob = Callable[[Path, bytes], str]


@pytest.fixture
def blob(daemon: FakeDaemon) -> Blob:
    """Write a file, let the daemon accept it as a blob, and give its digest."""
    daemon.script("POST /api/create", CREATED)

    def write(path: Path, data: bytes) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        daemon.script(f"POST /api/blobs/{digest}", Reply(status=201))
        return digest

    return write


def created(daemon: FakeDaemon) -> Any:
    (request,) = daemon.sent("POST /api/create")
    return request.json


@pytest.fixture
def adapter(tmp_path: Path, blob: Blob) -> dict[str, str]:
    """An adapter as peft saves it, in the folder `adapter`; its digests by name."""
    files = {
        "adapter_config.json": b'{"r": 8}',
        "adapter_model.safetensors": b"\x02" + bytes(7) + b"{}",
    }
    return {name: blob(tmp_path / "adapter" / name, data) for name, data in files.items()}


def test_a_modelfile_becomes_a_request(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    blob(
        tmp_path / "Modelfile",
        b"FROM smollm2:135m\nSYSTEM Be brief.\nTEMPLATE x\nLICENSE MIT\n"
        b"PARAMETER temperature 0.5\nPARAMETER stop a\nPARAMETER stop b\nMESSAGE user hi\n",
    )

    done = olla("create", "m")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "gathering model components\nwriting manifest\nsuccess\n"
    assert created(daemon) == {
        "model": "m",
        "from": "smollm2:135m",
        "system": "Be brief.",
        "template": "x",
        "license": ["MIT"],
        "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_files_are_uploaded_with_progress(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    digest = blob(tmp_path / "weights" / "x.gguf", WEIGHTS)
    (tmp_path / "weights" / "Modelfile").write_text("FROM ./x.gguf\n")

    done = olla("create", "m", "-f", "weights/Modelfile")

    assert done.stderr == (
        "gathering model components\n"
        "hashing x.gguf: 100% of 24 B\n"
        f"copying file {digest}: 100% of 24 B\n"
        "writing manifest\n"
        "success\n"
    )
    assert daemon.sent(f"POST /api/blobs/{digest}")[0].body == WEIGHTS
    assert created(daemon) == {"model": "m", "files": {"x.gguf": digest}}


def test_a_file_that_the_daemon_has_is_not_sent(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    digest = blob(tmp_path / "x.gguf", WEIGHTS)
    daemon.script(f"HEAD /api/blobs/{digest}", Reply())

    olla("create", "m", "--from", "x.gguf")

    assert not daemon.sent(f"POST /api/blobs/{digest}")
    assert created(daemon)["files"] == {"x.gguf": digest}


def test_an_adapter_s_path_is_relative_to_the_modelfile(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, adapter: dict[str, str]
) -> None:
    (tmp_path / "Modelfile").write_text("FROM base\nADAPTER ./adapter\n")

    olla("create", "m", "-f", str(tmp_path / "Modelfile"))

    assert created(daemon) == {"model": "m", "from": "base", "adapters": adapter}


def test_several_adapters_have_folders_and_scales(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, adapter: dict[str, str], blob: Blob
) -> None:
    gguf = blob(tmp_path / "b 2", b"GGUF adapter")
    (tmp_path / "Modelfile").write_text('FROM base\nADAPTER "./adapter" 0.5\nADAPTER b 2\n')

    olla("create", "m")

    assert created(daemon) == {
        "model": "m",
        "from": "base",
        "adapters": {f"0/{name}": digest for name, digest in adapter.items()} | {"1/b 2": gguf},
        "adapter_scales": {"0": 0.5},
    }


def test_a_draft_model_is_uploaded_too(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    digest = blob(tmp_path / "small.gguf", WEIGHTS)
    (tmp_path / "Modelfile").write_text("FROM base\nDRAFT ./small.gguf\n")

    olla("create", "m", "--draft-quantize", "q8_0")

    assert created(daemon) == {
        "model": "m",
        "from": "base",
        "draft_files": {"small.gguf": digest},
        "draft_quantize": "q8_0",
    }


def test_from_and_adapter_do_without_a_modelfile(
    olla: Olla, daemon: FakeDaemon, adapter: dict[str, str]
) -> None:
    done = olla("create", "m", "--from", "base", "--adapter", "adapter", "--force")

    assert done.returncode == 0
    assert created(daemon) == {"model": "m", "from": "base", "adapters": adapter, "force": True}


def test_without_a_modelfile_the_folder_is_the_model(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    digest = blob(tmp_path / "x.gguf", WEIGHTS)

    olla("create", "m")

    assert created(daemon) == {"model": "m", "files": {"x.gguf": digest}}


def test_several_files_add_up(olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob) -> None:
    names = ("a.gguf", "b.gguf")
    digests = {name: blob(tmp_path / name, WEIGHTS) for name in names}
    (tmp_path / "Modelfile").write_text("FROM ./a.gguf\nFROM ./b.gguf\n")

    olla("create", "m")

    assert created(daemon)["files"] == digests


def test_deprecated_parameters_are_warned_of(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    blob(tmp_path / "Modelfile", b"FROM m\nPARAMETER mirostat 1\n")

    done = olla("create", "m")

    assert done.stderr.startswith("warning: parameter mirostat is deprecated\n")
    assert "parameters" not in created(daemon)


@pytest.mark.parametrize(
    ("base", "is_told"), [("smollm2:135m", True), ("./x", False), ("x", False)]
)
def test_a_path_that_hides_a_stored_model_is_told(
    olla: Olla, tmp_path: Path, blob: Blob, base: str, is_told: bool
) -> None:
    blob(tmp_path / base / "x.gguf", WEIGHTS)

    done = olla("create", "m", "--from", base)

    assert done.returncode == 0
    text = f"taking the folder ./{base}, not the model {base}\n"
    assert done.stderr.startswith(text) == is_told
    assert ("taking" in done.stderr) == is_told


@pytest.mark.parametrize(
    ("args", "modelfile", "text"),
    [
        (["a b"], "FROM m\n", "invalid model name: a b"),
        (["m", "-f", "nowhere"], "FROM m\n", "specified Modelfile wasn't found"),
        (["m"], None, "no Modelfile or safetensors files found"),
        (["m"], "SYSTEM x\n", "no FROM line"),
        (["m"], "FROM ./missing.gguf\n", "./missing.gguf: no such file or directory"),
        (["m"], "FROM m\nADAPTER ./missing\n", "./missing: no such file or directory"),
        (["m"], "FROM m\nPARAMETER nope 1\n", "unknown parameter 'nope'"),
        (["m"], "FROM m\nPARAMETER seed x\n", "invalid int value [x]"),
        (["m"], "FROM m\nDRAFT ./missing\n", "./missing: no such file or directory"),
        (
            ["m"],
            "FROM ./Modelfile\nDRAFT ./Modelfile\n",
            "DRAFT must not reference the same local path as FROM: ./Modelfile",
        ),
        (
            ["m"],
            "FROM m\nDRAFT smollm2:135m\n",
            "DRAFT smollm2:135m: no such file; DRAFT takes a GGUF file, not a model's name",
        ),
        (
            ["m"],
            "FROM m\nDRAFT .\n",
            "DRAFT .: DRAFT takes a GGUF file, not a folder with 0 of them",
        ),
        (
            ["m"],
            "FROM m\nDRAFT ./a.gguf\nDRAFT ./b.gguf\n",
            "one model can draft, but DRAFT is given 2 times: keep one",
        ),
        (
            ["m"],
            "FROM m\nREQUIRES x\n",
            "requires must be a valid semver (e.g. 0.14.0)",
        ),
        (
            ["m", "--from", ".", "-q", "q9_9"],
            None,
            "unsupported quantization type q9_9 - supported types are F32, F16, BF16, Q8_0, Q4_0, "
            "Q4_1, Q5_0, Q5_1, Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M, Q6_K, INT4, NF4, INT8",
        ),
        (
            ["m", "--draft-quantize", "q8_0"],
            "FROM m\n",
            "--draft-quantize requires a DRAFT model",
        ),
        (
            ["m", "--draft-quantize", "nf4"],
            "FROM m\nDRAFT ./Modelfile\n",
            "a DRAFT model is a GGUF file, which has no type NF4: take Q8_0 or Q4_K_M",
        ),
        (
            ["m", "--adapter", "x"],
            "FROM m\n",
            "--adapter needs --from, the model that it was made for",
        ),
        (
            ["m", "-f", "Modelfile", "--from", "x"],
            "FROM m\n",
            "--file cannot be used with --from or --adapter",
        ),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(
    olla: Olla,
    daemon: FakeDaemon,
    tmp_path: Path,
    args: list[str],
    modelfile: str | None,
    text: str,
) -> None:
    if modelfile is not None:
        (tmp_path / "Modelfile").write_text(modelfile)

    done = olla("create", *args)

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"Error: {text}\n")
    assert daemon.requests == []


def test_an_error_in_a_modelfile_has_its_line(olla: Olla, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM m\nNOPE x\n")

    assert olla("create", "m").stderr.startswith("Error: (line 2): command must be one of")


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("model.safetensors", (10 * 2**30).to_bytes(8, "little") + bytes(64),
         "invalid safetensors file: its header of 10737418240 bytes is longer than 100000000"),
        ("x.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "1152921504606846976 tensors"),
    ],
)  # fmt: skip
def test_a_broken_header_is_told_before_the_file_is_hashed(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    (tmp_path / name).write_bytes(data)

    done = olla("create", "m", "--from", name)

    assert done.returncode == 1
    assert f"Error: {name}: " in done.stderr and reason in done.stderr
    assert "hashing" not in done.stderr
    assert not daemon.sent("POST /api/create")


def test_pickled_weights_are_refused(olla: Olla, daemon: FakeDaemon, tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")

    done = olla("create", "m")

    assert done.returncode == 1
    assert "pytorch_model.bin holds pickled objects" in done.stderr
    assert daemon.requests == []


def test_a_folder_that_is_no_adapter_is_refused(olla: Olla, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    done = olla("create", "m", "--from", "base", "--adapter", "empty")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: no adapter found in {tmp_path / 'empty'}")


def test_a_folder_in_place_of_a_modelfile_is_an_error_in_words(olla: Olla, tmp_path: Path) -> None:
    done = olla("create", "m", "-f", ".")

    assert (done.returncode, done.stderr) == (1, f"Error: {tmp_path}: Is a directory\n")


def test_the_daemon_s_refusal_has_its_status(
    olla: Olla, daemon: FakeDaemon, tmp_path: Path, blob: Blob
) -> None:
    blob(tmp_path / "Modelfile", b"FROM m\n")
    daemon.script("POST /api/create", failed(400, "unknown type"))

    done = olla("create", "m")

    assert done.returncode == 1
    assert done.stderr.endswith("Error: 400 Bad Request: unknown type\n")
