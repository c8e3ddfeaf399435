"""Modelfiles that cannot be used, through the command line: the line, the reason, and no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.conftest import MODEL
from tests.conformance.daemon import Daemon
from tests.conformance.stored import Store
from tests.conformance.test_bad_files import PICKLE, TINY

pytestmark = [pytest.mark.weights, pytest.mark.usefixtures("store")]


COMMANDS = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "message", or "requires"'
)
ROLES = 'message role must be one of "system", "user", or "assistant"'


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (f"FROM {MODEL}\nBOGUS x\n", f"(line 2): {COMMANDS}"),
        (f"FROM {MODEL}\n\n# fine\nSYS%TEM x\n", f"(line 4): {COMMANDS}"),
        ("FROM\n", f"(line 2): {COMMANDS}"),
        (f"FROM {MODEL}\nMESSAGE User hi\n", f"(line 2): {ROLES}"),
        (f'FROM {MODEL}\nSYSTEM "abc', "unexpected EOF"),
        (f'FROM {MODEL}\nSYSTEM """abc\n"\n', "unexpected EOF"),
        (f"FROM {MODEL}\nPARAMETER num_ctx\n", "unexpected EOF: num_ctx"),
        ("SYSTEM hi\n", "no FROM line"),
        ("", "no FROM line"),
        (f"FROM {MODEL}\nPARAMETER foo 1\n", "unknown parameter 'foo'"),
        (f"FROM {MODEL}\nPARAMETER num_ctx abc\n", "invalid int value [abc]"),
        (f"FROM {MODEL}\nPARAMETER temperature hot\n", "invalid float value [hot]"),
        (f"FROM {MODEL}\nPARAMETER temperature nan\n", "invalid float value [nan]"),
        (f"FROM {MODEL}\nPARAMETER use_mmap maybe\n", "invalid bool value [maybe]"),
        (f"FROM {MODEL}\nREQUIRES tomorrow\n", "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM no-such-model\n",
         "pull model manifest: file does not exist (asked package; see OLLA_SOURCES)"),
        ("FROM not/a//name\n", "400 Bad Request: invalid model name"),
    ],
)  # fmt: skip
def test_a_modelfile_that_cannot_be_used_is_refused(
    daemon: Daemon, tmp_path: Path, text: str, error: str
) -> None:
    modelfile = tmp_path / "Modelfile"
    modelfile.write_text(text)

    done = daemon.run("create", "bad", "-f", str(modelfile))

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"Error: {error}"
    assert "Traceback" not in done.stderr


def test_a_pickled_adapter_is_refused_before_it_is_uploaded(daemon: Daemon, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.bin").write_bytes(b"PK\3\4")

    done = daemon.run("create", "bad", "--from", MODEL, "--adapter", str(folder))

    assert (done.returncode, done.stderr) == (1, f"Error: {PICKLE.format('adapter_model.bin')}\n")


def test_a_gguf_cut_short_is_refused_through_the_command_line(
    daemon: Daemon, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf").write_bytes(TINY[:-1])
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf\n")
    store.upload(TINY[:-1])  # what the command keeps there

    done = daemon.run("create", "bad", "-f", str(tmp_path / "Modelfile"))

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: model.gguf: ")
