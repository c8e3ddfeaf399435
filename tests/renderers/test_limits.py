"""A template's time is what its own work takes, whatever else a busy machine does."""

from __future__ import annotations

import sys
import time

import pytest

from olla.renderers.limits import MAX_SECONDS, LimitReached, Limits


@pytest.mark.skipif(sys.platform == "darwin", reason="no thread can ask for another's time there")
def test_time_that_others_take_is_not_charged() -> None:
    limits = Limits()

    with limits.watch():
        time.sleep(MAX_SECONDS + 0.2)

        assert limits.charge("x") == "x"


def test_work_without_an_end_is_interrupted() -> None:
    started = time.monotonic()

    with pytest.raises(LimitReached), Limits().watch():
        while True:
            sum(range(1000))

    assert time.monotonic() - started >= MAX_SECONDS
