"""ModelScope, or a mirror of it (MODELSCOPE_ENDPOINT), through its own client.

Asks what is in a repository; the bytes are fetched elsewhere. The client reads its settings, such
as MODELSCOPE_API_TOKEN and MODELSCOPE_CACHE, by itself. Imported when first needed.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelscope_hub import (
    AuthenticationError,
    FileInfo,
    HubApi,
    HubConfig,
    HubError,
    NetworkError,
    NotExistError,
    PermissionDeniedError,
    RateLimitError,
    RepoType,
    ServerError,
)
from modelscope_hub.constants import DEFAULT_ENDPOINT

from olla.errors import InvalidDigest, RevisionNotFound, SourceError, SourceNotFound
from olla.registry.digest import Digest
from olla.registry.layout import is_clean
from olla.sources.repository import RemoteFile, Repository

_REVISION = "master"
_TOKENS = "https://modelscope.cn/my/myaccesstoken"


def look_up(name: str, revision: str) -> Repository:
    """See `Lookup`. `revision` is a branch or a tag, "" the main branch."""
    _trust()
    config = HubConfig()
    api = HubApi(config, user_agent="olla")
    try:
        files = api.list_repo_files(name, RepoType.MODEL, revision=revision or _REVISION)
        if not files:
            raise SourceNotFound(f"ModelScope has no files in {name} {revision}".rstrip())
        return _repository(api, config, name, revision or _REVISION, files)
    except NotExistError as error:
        raise _missing(api, name, revision) from error
    except (AuthenticationError, PermissionDeniedError) as error:
        raise SourceError(_refusal(name)) from error
    except (NetworkError, ServerError, RateLimitError) as error:  # after tries of its own
        raise SourceError(f"cannot reach {config.endpoint}: {error}") from error
    except (HubError, OSError) as error:
        raise SourceError(f"ModelScope: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{config.endpoint} sent no list of files: {error}") from error


def endpoint() -> str:
    """The address of the hub or its mirror."""
    return str(HubConfig().endpoint)


def _trust() -> None:
    """Let the client trust what all else here does: requests has names of its own for that."""
    variables = os.environ  # noqa: TID251 - of requests, which takes it from nowhere else
    named = variables.keys() & {"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"}
    if "SSL_CERT_FILE" in variables and not named:
        variables["REQUESTS_CA_BUNDLE"] = variables["SSL_CERT_FILE"]


def _repository(
    api: HubApi, config: HubConfig, name: str, revision: str, files: list[FileInfo]
) -> Repository:
    return Repository(
        name=f"modelscope.cn/{name}",
        files=tuple(
            _file(api, config, name, revision, file) for file in files if file.type == "blob"
        ),
        headers=_credentials(config),
        refusal=_refusal(name),
    )


def _file(api: HubApi, config: HubConfig, name: str, revision: str, file: FileInfo) -> RemoteFile:
    if not (isinstance(file.path, str) and is_clean(file.path) and file.size >= 0):
        raise SourceError(f"ModelScope lists a file {file.path!r} of {file.size} bytes in {name}")
    return RemoteFile(
        name=file.path,
        size_bytes=file.size,
        url=api.legacy.get_download_url(name, RepoType.MODEL, file.path, revision),
        digest=_digest(file.sha256) if file.sha256 else None,
        cached=tuple(folder / file.path for folder in _caches(config, name, revision)),
    )


def _digest(text: object) -> Digest:
    try:
        return Digest.parse(f"sha256:{text}")
    except InvalidDigest as error:
        raise SourceError(f"ModelScope sent the digest {text!r}") from error


def _caches(config: HubConfig, name: str, revision: str) -> tuple[Path, ...]:
    """Where clients of several ages keep a repository's files; a dot was no part of a folder."""
    owner, _, repository = name.partition("/")
    old = Path(owner, repository.replace(".", "___"))
    models = config.cache_dir / "models"
    new = models / name.replace("/", "--") / "snapshots" / revision
    return (new, models / old, config.cache_dir / "hub" / "models" / old)


def _credentials(config: HubConfig) -> dict[str, str]:
    """As its client: older parts of the hub look at the cookie, newer ones at the header."""
    if not config.token:
        return {}
    return {"Authorization": f"Bearer {config.token}", "Cookie": f"m_session_id={config.token}"}


def _missing(api: HubApi, name: str, revision: str) -> SourceError:
    """The hub answers alike for a repository and a revision that are not there."""
    if revision:
        try:
            if api.repo_exists(name, RepoType.MODEL):
                return RevisionNotFound(name, revision)
        except (HubError, OSError) as error:
            return SourceError(f"ModelScope: {error}")
    return SourceNotFound(
        f"ModelScope has no repository {name}, or it is private: check its name, and for a private "
        f"one set MODELSCOPE_API_TOKEN to a token from {_TOKENS}"
    )


def _refusal(name: str) -> str:
    return (
        f"ModelScope refuses {name}: ask for access at {DEFAULT_ENDPOINT}/models/{name}, then set "
        f"MODELSCOPE_API_TOKEN to a token of yours from {_TOKENS}"
    )
