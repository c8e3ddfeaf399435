"""Every error olla raises on purpose. None of them knows HTTP or the terminal.

OllaError
├── BadInput                                  what the caller sent cannot be used
│   ├── InvalidName, InvalidDigest, InvalidOption, InvalidDuration, InvalidSetting
│   ├── ModelfileError, TemplateError         text we could not read
│   ├── FormatError                           a weight file that is broken or not supported
│   ├── DigestMismatch                        uploaded bytes that do not hash to their digest
│   ├── CapabilityMissing                     the model cannot do what was asked
│   ├── PromptTooLong                         the prompt does not fit the context window
│   └── BodyTooLarge                          a request body past the daemon's limit
├── NotFound ── ModelNotFound, BlobNotFound   nothing is stored under that name or digest
├── StoreError ── BlobCorrupt                 the store on disk refused, or holds broken bytes
├── SourceError                               the far end refused or broke
│   ├── SourceNotFound, SourceRefused, SourceUnauthorized
│   ├── SourceBroke ── SourceUnreachable      a later try may succeed
│   └── RevisionNotFound
├── CloudDisabled                             what only Ollama's cloud could answer
├── SignInRequired                            an account that olla has no use for
├── ServerBusy, NoRoom                        too many requests wait already, or for too long
├── RequestTimeout                            the client or the reply took longer than is allowed
├── KeyMissing, KeyRefused                    who asks has no key, or one that is not for this
├── ServerStopping                            the daemon is on its way out
├── RunnerError                               the runner refused or is gone
│   └── OutOfMemory, NoTokenAllowed, RunnerDied
└── ClientError ── ServerUnreachable, ApiError    what the command line meets
"""

from __future__ import annotations


class OllaError(Exception):
    """Base of the tree. `str(error)` is one sentence, fit to show a user as it is."""


class BadInput(OllaError):
    """What the caller sent cannot be used; nothing was changed."""


class InvalidName(BadInput):
    """Clients match on the sentence; `reason` is added to it."""

    def __init__(self, text: str, reason: str = "") -> None:
        super().__init__(f"invalid model name{reason and f' ({reason})'}")
        self.text = text


class InvalidDigest(BadInput):
    def __init__(self, text: str) -> None:
        super().__init__("invalid digest format")
        self.text = text


class InvalidOption(BadInput):
    """A parameter with an unknown name or a value of the wrong type."""


class InvalidDuration(BadInput):
    """Text that Go's duration notation cannot read."""


class InvalidSetting(BadInput):
    """An environment variable that cannot be used; the text names it and the accepted form."""


class ModelfileError(BadInput):
    """A Modelfile that cannot be read; the text carries the line number where there is one."""


class TemplateError(BadInput):
    """A chat template that does not parse, fails, or runs past its limits."""


class FormatError(BadInput):
    """A weight file that is truncated, lies about its sizes, or has a format we do not read."""


class DigestMismatch(BadInput):
    def __init__(self, expected: str, actual: str) -> None:
        super().__init__(f'digest mismatch, expected "{expected}", got "{actual}"')
        self.expected = expected
        self.actual = actual


class CapabilityMissing(BadInput):
    """The model lacks what the request needs, such as chat, tools or thinking."""


class PromptTooLong(BadInput):
    """The prompt does not fit the context window and may not be shortened."""


class BodyTooLarge(BadInput):
    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"request body is larger than {limit_bytes // 2**20} MiB")


class NotFound(OllaError):
    """Nothing is stored under that name or digest."""


class ModelNotFound(NotFound):
    """`text` replaces the usual sentence where a route has its own (spec/api.md section 9)."""

    def __init__(self, name: str, text: str | None = None) -> None:
        super().__init__(text or f"model '{name}' not found")
        self.name = name


class BlobNotFound(NotFound):
    def __init__(self, digest: str) -> None:
        super().__init__(f'blob "{digest}" not found')
        self.digest = digest


class StoreError(OllaError):
    """The store on disk refused: no space, no permission, or a broken manifest."""


class BlobCorrupt(StoreError):
    """Stored or downloaded bytes that do not hash to their digest."""


class SourceError(OllaError):
    """A place models come from refused or broke."""


class SourceNotFound(SourceError):
    """The source has no such model. Clients match on the sentence; `reason` is added to it."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(f"pull model manifest: file does not exist{reason and f' ({reason})'}")


class RevisionNotFound(SourceError):
    """A hub has the repository, but no such branch, tag or commit of it."""

    def __init__(self, name: str, revision: str) -> None:
        super().__init__(f"{name} has no revision {revision}")


class SourceRefused(SourceError):
    """The far end answered with a status that no second try would change."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class SourceUnauthorized(SourceError):
    """The far end wants credentials that we have not got. Clients match on the sentence."""

    def __init__(self) -> None:
        super().__init__("unauthorized: access denied")


class SourceBroke(SourceError):
    """The far end or the line to it failed in a way that a later try may not meet."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s


class SourceUnreachable(SourceBroke):
    """Nothing has answered there yet: the name means no address, or no connection came about."""


class CloudDisabled(OllaError):
    def __init__(self, operation: str) -> None:
        super().__init__(f"ollama cloud is disabled: {operation}")


class SignInRequired(OllaError):
    def __init__(self) -> None:
        super().__init__("unauthorized")


class ServerBusy(OllaError):
    def __init__(self) -> None:
        super().__init__("server busy, please try again.  maximum pending requests exceeded")


class NoRoom(OllaError):
    """The models in memory have been in use for as long as a load may wait for them."""

    def __init__(self, name: str, seconds: float) -> None:
        super().__init__(
            f"no room for model '{name}': the loaded models have been in use for {seconds:g} "
            "seconds; stop one of them or raise OLLA_MAX_LOADED_MODELS"
        )


class RequestTimeout(OllaError):
    """A request whose body, or whose reply, took longer than the settings allow."""


class KeyMissing(OllaError):
    def __init__(self) -> None:
        super().__init__(
            "a valid key is needed: send it as `Authorization: Bearer <key>`, "
            "or set OLLA_API_KEY for olla's commands"
        )


class KeyRefused(OllaError):
    def __init__(self, name: str, scope: str) -> None:
        super().__init__(
            f"the key '{name}' has not the scope '{scope}' that this needs: "
            f"make another with `olla key create NAME --scope {scope}`"
        )


class ServerStopping(OllaError):
    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class RunnerError(OllaError):
    """The runner could not load the model or answer the request."""


class OutOfMemory(RunnerError):
    """The model or the request needs more memory than there is."""


class NoTokenAllowed(RunnerError):
    """The format that a reply has to match leaves it no way on."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(
            "the model has no token with which the reply could go on in the requested format; "
            f"simplify the format or use another model{reason and f' ({reason})'}"
        )


class RunnerDied(RunnerError):
    def __init__(self, *, in_mid_reply: bool = False) -> None:
        start = "an error was encountered while running the model: " if in_mid_reply else ""
        super().__init__(
            f"{start}model runner has unexpectedly stopped, this may be due to resource "
            "limitations or an internal error, check ollama server logs for details"
        )


class ClientError(OllaError):
    """The command line could not get an answer from the daemon."""


class ServerUnreachable(ClientError):
    """Nothing answers at the daemon's address."""


class ApiError(ClientError):
    """The daemon answered with an error.

    `status` is 200 when the error came as a line of a stream that had begun.
    """

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status
