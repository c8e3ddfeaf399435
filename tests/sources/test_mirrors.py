"""Mirrors of the hubs over TLS, with an authority of their own."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from olla.errors import SourceError
from tests.sources.docker_registry import make_certificate
from tests.sources.hub_models import gguf_files
from tests.sources.hub_server import Hub, Repo, serving
from tests.sources.modelscope_server import ModelScope
from tests.sources.pulling import Pulled

# The servers are gone before their clients have said goodbye in TLS.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

REPOS = {"org/tiny": Repo(gguf_files("Q4_0"))}
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _own_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client makes its session once, with the certificates of then."""
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")  # so that what the test leaves is undone
        monkeypatch.delenv(variable)
    close_session()
    yield
    close_session()


@pytest.fixture
def mirrors(
    huggingface: Hub, modelscope: ModelScope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Both hubs; the file with their authority's certificate."""
    made = make_certificate(tmp_path / "certificate")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(made.certificate, made.key)
    huggingface.repos, modelscope.repos = REPOS, REPOS
    with serving(huggingface.app(), tls) as hf_url, serving(modelscope.app(), tls) as ms_url:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hf_url)
        template = f"{hf_url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", ms_url)
        monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
        yield made.authority
    gc.collect()  # so that it is here that they warn


@pytest.mark.parametrize("name", ["hf.co/org/tiny", "modelscope.cn/org/tiny"])
async def test_the_authority_is_trusted_where_it_is_named(
    mirrors: Path, pulled: Pulled, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(mirrors))

    assert await pulled(name)


async def test_modelscope_s_client_may_trust_a_file_of_its_own(
    mirrors: Path, pulled: Pulled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(mirrors))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")

    with pytest.raises(SourceError, match=r"/nowhere\.pem"):
        await pulled("modelscope.cn/org/tiny")


@pytest.mark.parametrize("name", ["hf.co/org/tiny", "modelscope.cn/org/tiny"])
async def test_and_nowhere_else(mirrors: Path, pulled: Pulled, name: str) -> None:
    with pytest.raises(SourceError, match=r"(?i)certificate.?verify.?failed"):
        await pulled(name)
