"""Which package index pip is set up with; that the hubs' clients are asked, `olla doctor` shows."""

from __future__ import annotations

import pytest

from olla.sources.endpoints import ENDPOINTS, index_of
from olla.variables import DEFAULT_SOURCES


@pytest.mark.parametrize(
    ("pip_config", "expected"),
    [
        ("", "https://pypi.org/simple"),
        ("global.timeout='60'\nbroken", "https://pypi.org/simple"),
        ("global.index-url='https://a/simple'", "https://a/simple"),
        ("global.index-url='https://a/?x=1'\ndownload.index-url='https://b/'", "https://b/"),
        (":env:.index-url='https://c/'\nglobal.index-url='https://a/'", "https://c/"),
    ],
)
def test_the_index_that_pip_uses(pip_config: str, expected: str) -> None:
    assert index_of(pip_config) == expected


def test_every_source_has_an_endpoint() -> None:
    assert set(ENDPOINTS) == set(DEFAULT_SOURCES)
