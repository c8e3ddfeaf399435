"""Hugging Face, or a mirror of it (HF_ENDPOINT), through its own client.

Asks what is in a repository; the bytes are fetched elsewhere. The client reads its settings, such
as HF_TOKEN and HF_HUB_CACHE, by itself. Imported when first needed, since it is slow to import.
"""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined] # of HTTPError
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import ModelInfo, RepoSibling

from olla.errors import InvalidDigest, RevisionNotFound, SourceBroke, SourceError, SourceNotFound
from olla.registry.digest import Digest
from olla.registry.layout import is_clean
from olla.sources.repository import RemoteFile, Repository

TIMEOUT_S = 30.0

TOKENS = "https://huggingface.co/settings/tokens"


def look_up(name: str, revision: str) -> Repository:
    """See `Lookup`. `revision` is a branch, a tag or a commit, "" the main branch."""
    try:
        api = HfApi(library_name="olla")
        info = api.model_info(
            name, revision=revision or None, files_metadata=True, timeout=TIMEOUT_S
        )
    except RevisionNotFoundError as error:
        raise RevisionNotFound(name, revision) from error
    except GatedRepoError as error:
        raise SourceError(_refusal(name, is_gated=True)) from error
    except RepositoryNotFoundError as error:
        raise SourceNotFound(
            f"Hugging Face has no repository {name}, or it is private: check its name, and for a "
            f"private one set HF_TOKEN to a token from {TOKENS}"
        ) from error
    except (OfflineModeIsEnabled, HFValidationError) as error:
        raise SourceError(f"Hugging Face: {error}") from error
    except HfHubHTTPError as error:
        raise failure(name, error) from error
    except (HTTPError, OSError) as error:
        raise SourceBroke(f"cannot reach {constants.ENDPOINT}: {error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{constants.ENDPOINT} sent no list of files: {error}") from error
    return Repository(
        name=f"hf.co/{name}",
        files=tuple(_file(name, info, sibling) for sibling in info.siblings or ()),
        headers=_credentials(api),
        refusal=_refusal(name, is_gated=bool(info.gated)),
        commit=info.sha or "",
    )


def endpoint() -> str:
    """The address of the hub or its mirror."""
    return str(constants.ENDPOINT)


def _file(name: str, info: ModelInfo, sibling: RepoSibling) -> RemoteFile:
    path, lfs = sibling.rfilename, sibling.lfs
    size_bytes = lfs.size if lfs else sibling.size
    if not (isinstance(path, str) and is_clean(path) and type(size_bytes) is int):
        raise SourceError(f"Hugging Face lists a file {path!r} of {size_bytes} bytes in {name}")
    return RemoteFile(
        name=path,
        size_bytes=size_bytes,
        url=hf_hub_url(name, path, revision=info.sha),
        digest=_digest(lfs.sha256) if lfs else None,
        git_oid=sibling.blob_id or "",
        cached=(_cache(name) / lfs.sha256,) if lfs else (),
    )


def _digest(text: str) -> Digest:
    try:
        return Digest.parse(f"sha256:{text}")
    except InvalidDigest as error:
        raise SourceError(f"Hugging Face sent the digest {text!r}") from error


def _cache(name: str) -> Path:
    """Where the client keeps a repository's bytes, those of LFS by their digest."""
    folder = repo_folder_name(repo_id=name, repo_type="model")
    return Path(constants.HF_HUB_CACHE, folder, "blobs")


def _credentials(api: HfApi) -> dict[str, str]:
    headers = api._build_hf_headers()
    return {key: value for key, value in headers.items() if key.lower() == "authorization"}


def _refusal(name: str, *, is_gated: bool) -> str:
    page = f"{constants.ENDPOINT}/{name}"
    if is_gated:
        return (
            f"{name} is gated on Hugging Face: accept its terms at {page}, then set HF_TOKEN to a "
            f"token of yours from {TOKENS}"
        )
    return f"Hugging Face refuses {name}: set HF_TOKEN to a token that may read it ({TOKENS})"


def failure(name: str, error: HfHubHTTPError) -> SourceError:
    """What the hub's answer means, where it is none of a kind of its own."""
    status = error.response.status_code if error.response is not None else 0
    if status in {401, 403}:
        return SourceError(_refusal(name, is_gated=False))
    text = f"{constants.ENDPOINT} answered {status} for {name}"
    return SourceBroke(text) if status in {408, 429} or status >= 500 else SourceError(text)
