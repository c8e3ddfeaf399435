"""What is checked and cut before a request becomes a sequence. Knows token ids, no text."""

from __future__ import annotations

from olla.engine.logprobs import MAX_TOP
from olla.errors import BadInput, PromptTooLong
from olla.runner.protocol import Generate

MAX_BIAS = 100.0
MAX_ECHOED_LOGPROBS = 2**19  # about as many as one message can hold


def check_request(request: Generate, tokens: list[int], vocab_size: int) -> None:
    """Refuse what no engine can answer; the window has no part in that.

    Raises:
        BadInput: nothing to go on from, a number that is no token, or a parameter out of range.
    """
    check_tokens(tokens, vocab_size)
    if not tokens:
        raise BadInput("the prompt is empty")
    if not 0 <= request.top_logprobs <= MAX_TOP:
        raise BadInput(f"top_logprobs must be between 0 and {MAX_TOP}")
    for token, addend in request.logit_bias.items():
        if not 0 <= token < vocab_size:
            raise BadInput(
                f"logit_bias names token {token}, which is not in the vocabulary of {vocab_size}"
            )
        if not -MAX_BIAS <= addend <= MAX_BIAS:
            raise BadInput(f"logit_bias of token {token} must be between -100 and 100")


def check_tokens(tokens: list[int], vocab_size: int) -> None:
    bad = [token for token in tokens if not 0 <= token < vocab_size]
    if bad:
        raise BadInput(f"token {bad[0]} is not in the vocabulary of {vocab_size}")


def check_echo(request: Generate, num_tokens: int) -> None:
    """Refuse to tell more of a prompt than one message can hold.

    Raises:
        BadInput: the prompt is too long for so many logprobs.
    """
    wanted = num_tokens * (1 + request.top_logprobs)
    if request.echo and request.logprobs and wanted > MAX_ECHOED_LOGPROBS:
        raise BadInput(
            f"echo with top_logprobs {request.top_logprobs} is too much for a prompt of "
            f"{num_tokens} tokens; ask for fewer top_logprobs or shorten the prompt"
        )


def fit_prompt(tokens: list[int], window: int, num_keep: int, *, may_cut: bool) -> list[int]:
    """The prompt, cut to the window as spec/modelfile.md section 7 step 2 says.

    Raises:
        PromptTooLong: it does not fit and may not be shortened.
    """
    if len(tokens) < window:
        return list(tokens)
    if not may_cut:
        raise PromptTooLong(
            "the prompt is longer than the context length currently available to the model; "
            "shorten the prompt, adjust the context length in settings, or use a model with "
            f"a longer context length ({len(tokens)} tokens in the prompt, {window} in the context)"
        )
    keep = min(num_keep, window - 1)
    length = window - max((window - keep) // 2, 1)
    tail = length - keep
    return tokens[:keep] + (tokens[-tail:] if tail > 0 else [])
