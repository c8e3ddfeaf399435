"""`olla signin` and `olla signout`: nobody waits for a browser."""

from __future__ import annotations

from tests.cli.conftest import Olla


def test_signin_fails_and_says_that_there_is_no_cloud(olla: Olla) -> None:
    done = olla("signin")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: olla has no cloud and no accounts")


def test_signout_has_nothing_to_do(olla: Olla) -> None:
    done = olla("signout")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("olla has no cloud and no accounts")
