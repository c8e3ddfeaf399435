"""Sends a model to Hugging Face, or to a mirror of it (HF_ENDPOINT), through its own client.

Imported when first needed, since the client is slow to import. A daemon has no use for its bars.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined] # of HTTPError
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.lfs import UploadInfo
from huggingface_hub.utils.tqdm import disable_progress_bars

from olla.errors import SourceBroke, SourceError, SourceUnreachable
from olla.sources.hub_push import Shipment, Stopped
from olla.sources.huggingface import TOKENS, failure
from olla.sources.outgoing import OutgoingFile

_SAMPLE_BYTES = 512
_REFUSALS = frozenset({401, 403})


def send(shipment: Shipment) -> None:
    """See `Send`."""
    disable_progress_bars()
    repository, branch = shipment.repository, shipment.content.branch or None
    if get_token() is None:
        raise SourceError(
            f"Hugging Face wants to know who pushes to {repository}: set HF_TOKEN, where the "
            f"daemon starts, to a token of yours that may write ({TOKENS})"
        )
    api = HfApi(library_name="olla")
    with _explained(shipment), ExitStack() as stack:
        api.create_repo(repository, private=shipment.is_private or None, exist_ok=True)
        if branch:
            api.create_branch(repository, branch=branch, exist_ok=True)
        files = list(shipment.content.files)
        card = shipment.content.card
        if not api.file_exists(repository, card.name, revision=branch):
            files.append(card)
        additions = [_Addition(file, stack.enter_context(shipment.open(file))) for file in files]
        api.preupload_lfs_files(repository, additions, revision=branch)
        shipment.check()
        api.create_commit(repository, additions, commit_message="Upload with olla", revision=branch)


class _Addition(CommitOperationAdd):
    """A file whose digest is known, so that it is read once only.

    One that is open already, unlike one by its path, goes over plain HTTP, where what was read is
    what was sent.
    """

    def __init__(self, file: OutgoingFile, content: io.BufferedIOBase) -> None:
        self._digest, self._size_bytes = bytes.fromhex(file.digest.hex), file.size_bytes
        super().__init__(path_in_repo=file.name, path_or_fileobj=content)  # type: ignore[arg-type]

    def __post_init__(self) -> None:
        assert isinstance(self.path_or_fileobj, io.BufferedIOBase)
        sample = self.path_or_fileobj.read(_SAMPLE_BYTES)
        self.path_or_fileobj.seek(0)
        self.upload_info = UploadInfo(self._size_bytes, sample, self._digest)


@contextmanager
def _explained(shipment: Shipment) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # how the client tells of a file that did not get through
        cause = error.__cause__
        raise (cause if isinstance(cause, Stopped) else _explanation(shipment, cause or error)
               ) from error  # fmt: skip
    except (HfHubHTTPError, HTTPError, OSError, ValueError, KeyError, TypeError) as error:
        raise _explanation(shipment, error) from error


def _explanation(shipment: Shipment, error: BaseException) -> SourceError:
    repository = shipment.repository
    if isinstance(error, OfflineModeIsEnabled | HFValidationError):
        return SourceError(f"Hugging Face: {error}")
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code if error.response is not None else 0
        is_refusal = status in _REFUSALS or isinstance(error, RepositoryNotFoundError)
        return _refusal(repository) if is_refusal else failure(repository, error)
    if isinstance(error, HTTPError | OSError):
        kind = SourceBroke if shipment.sent_bytes else SourceUnreachable
        return kind(f"cannot reach {constants.ENDPOINT}: {error}")
    return SourceError(f"{constants.ENDPOINT} did not take {repository}: {error}")


def _refusal(repository: str) -> SourceError:
    owner = repository.partition("/")[0]
    return SourceError(
        f"Hugging Face refuses the push to {repository}: HF_TOKEN, where the daemon starts, has to "
        f"be a token of yours that may write to {owner} ({TOKENS})"
    )
