"""Commands as processes: what they print where, what they ask, and their exit codes."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from olla import __version__
from olla.cli import COMMANDS, cli, main
from tests.cli.conftest import Olla
from tests.cli.fake_daemon import FakeDaemon, Reply, generated

UNREACHABLE = "Error: could not connect to olla server, run 'olla serve' to start it\n"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["stop"], "accepts 1 arg(s), received 0"),
        (["pull", "a", "b"], "accepts 1 arg(s), received 2"),
        (["cp", "a"], "accepts 2 arg(s), received 1"),
        (["rm"], "requires at least 1 arg(s), only received 0"),
        (["run"], "requires at least 1 arg(s), only received 0"),
        (["list", "a", "b"], "accepts at most 1 arg(s), received 2"),
        (["serve", "x"], "accepts 0 arg(s), received 1"),
        (["nope"], 'unknown command "nope" for "olla"'),
        (["help", "nope"], 'unknown command "nope" for "olla"'),
        (["--nope"], "unknown flag: --nope"),
        (["run", "m", "--nope"], "unknown flag: --nope"),
        (["create", "m", "-z"], "unknown shorthand flag: 'z' in -z"),
        (["create", "m", "-f"], "flag needs an argument: 'f' in -f"),
        (["run", "m", "--keepalive"], "flag needs an argument: --keepalive"),
        (["run", "m", "--verbose=x"], "flag takes no value: --verbose"),
        (["run", "m", "--keepalive", "5"], 'time: missing unit in duration "5"'),
        (
            ["run", "m", "--think=x"],
            'invalid value for --think: "x" (must be true, false, high, medium, low, or max)',
        ),
        (
            ["run", "m", "--format", "x"],
            'invalid format: "x"; expected "json" or a valid JSON Schema object',
        ),
        (
            ["run", "m", "--format", "[]"],
            'invalid format: "[]"; expected "json" or a valid JSON Schema object',
        ),
        (
            ["show", "m", "--system", "--license"],
            "only one of '--license', '--modelfile', '--parameters', '--system', or "
            "'--template' can be specified",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_1(
    capfd: pytest.CaptureFixture[str], args: list[str], text: str
) -> None:
    assert main(args) == 1

    assert capfd.readouterr() == ("", f"Error: {text}\n")


def test_a_process_that_fails_exits_with_1(olla_process: Olla) -> None:
    done = olla_process("nope")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == 'Error: unknown command "nope" for "olla"\n'


def test_a_setting_that_cannot_be_read_is_an_error(olla: Olla) -> None:
    done = olla("list", OLLA_MAX_QUEUE="many")

    assert done.returncode == 1
    assert done.stderr.startswith("Error: OLLA_MAX_QUEUE='many'")


def test_without_a_server_a_command_says_how_to_start_one(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.stop()

    done = olla("list")

    assert (done.returncode, done.stderr) == (1, UNREACHABLE)


def test_a_bug_leaves_no_traceback(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.script("GET /api/tags", Reply([{"models": [{"name": "m"}]}]))

    done = olla("list")

    assert (done.returncode, done.stderr) == (1, "Error: KeyError: 'digest'\n")


def test_no_command_shows_the_help(olla: Olla) -> None:
    done = olla()

    assert done.returncode == 0
    assert done.stdout == olla("--help").stdout
    assert "Usage: olla" in done.stdout


@pytest.mark.parametrize("name", [*COMMANDS, "ls", "start"])
def test_every_command_has_help_in_both_ways(name: str) -> None:
    long, short = (CliRunner().invoke(cli, [name, flag]) for flag in ("--help", "-h"))

    assert long.exit_code == 0
    assert long.output == short.output
    assert "Usage:" in long.output


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_in_the_group_s_help_is_the_command_s(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)

    assert command is not None
    assert command.get_short_help_str(80) == f"{COMMANDS[name].summary}."


def test_help_explains_a_command(olla: Olla) -> None:
    assert "Usage: olla pull" in olla("help", "pull").stdout


@pytest.mark.parametrize(
    ("reply", "output"),
    [
        ({"version": "0.33.0", "olla": __version__}, f"olla version is {__version__}\n"),
        (
            {"version": "0.33.0", "olla": "9.9.9"},
            f"olla version is 9.9.9\nWarning: client version is {__version__}\n",
        ),
        (
            {"version": "0.33.0"},
            f"olla version is 0.33.0\nWarning: client version is {__version__}\n",
        ),
    ],
)
@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_version_is_the_server_s(
    olla: Olla, daemon: FakeDaemon, flag: str, reply: dict[str, str], output: str
) -> None:
    daemon.script("GET /api/version", Reply([reply]))

    done = olla(flag)

    assert (done.returncode, done.stdout) == (0, output)


def test_version_without_a_server_is_a_warning_and_starts_none(
    olla: Olla, daemon: FakeDaemon
) -> None:
    daemon.stop()

    done = olla("--version", OLLA_AUTOSTART="1")

    assert done.returncode == 0
    assert done.stdout == (
        "Warning: could not connect to a running olla instance\n"
        f"Warning: client version is {__version__}\n"
    )


def test_pull_writes_plain_lines_to_a_log(olla: Olla, daemon: FakeDaemon) -> None:
    layer = {"status": "pulling abc", "digest": "sha256:abc", "total": 2_000_000}
    daemon.script(
        "POST /api/pull",
        Reply(
            [
                {"status": "pulling manifest"},
                layer,
                *({**layer, "completed": step * 1000} for step in range(0, 2001, 500)),
                {"status": "success"},
            ]
        ),
    )

    done = olla("pull", "m", "--insecure")

    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == (
        "pulling manifest\n"
        "pulling abc:  25% of 2 MB\n"
        "pulling abc:  50% of 2 MB\n"
        "pulling abc:  75% of 2 MB\n"
        "pulling abc: 100% of 2 MB\n"
        "success\n"
    )
    assert daemon.requests[-1].json == {"model": "m", "insecure": True}


def test_pull_shows_the_error_of_the_stream(olla: Olla, daemon: FakeDaemon) -> None:
    error = "pull model manifest: file does not exist"
    daemon.script("POST /api/pull", Reply([{"status": "pulling manifest"}, {"error": error}]))

    done = olla("pull", "x")

    assert (done.returncode, done.stderr) == (1, f"pulling manifest\nError: {error}\n")


def test_a_reader_that_leaves_early_ends_the_reply_in_silence(
    environment: dict[str, str], daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.script("POST /api/generate", generated(*["word "] * 100_000))

    done = subprocess.run(
        f"{sys.executable} -m olla run m hi | head -c 4",
        shell=True,
        env=environment,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.stdout, done.stderr) == ("word", "")
    assert daemon.client_left.wait(timeout=20)


def test_shutdown_returns_when_the_address_is_free(olla: Olla, daemon: FakeDaemon) -> None:
    threads: list[threading.Thread] = []

    def stop() -> None:
        threads.append(threading.Thread(target=daemon.stop))
        threads[-1].start()

    daemon.script("POST /api/shutdown", Reply(on_arrival=stop))

    done = olla("shutdown")

    threads[0].join()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_shutdown_says_when_nothing_was_running(olla: Olla, daemon: FakeDaemon) -> None:
    daemon.stop()

    done = olla("shutdown")

    assert (done.returncode, done.stdout) == (0, "olla is not running\n")
