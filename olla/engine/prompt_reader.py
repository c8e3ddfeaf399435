"""PromptReader: texts and images -> token ids, and images at their places among them.

Knows one model's tokenizer and how it takes images; nothing of sequences or steps. Images are
counted first and looked at only where the prompt fits. `encode` and `decode` may be called from
any thread, the rest from one, which may be another than steps the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from olla.engine.image_places import PlacedImage, PlacedPrompt, expand
from olla.engine.loading import LoadedModel
from olla.engine.prompt import check_tokens, fit_prompt
from olla.errors import BadInput
from olla.runner.protocol import Generate

_SHORTEST_WINDOW = 2  # a token to go on from, and room for one more


@dataclass(frozen=True, slots=True)
class _Layout:
    """A prompt's tokens, where its images begin among them, and which image each is."""

    tokens: list[int]
    starts: list[int] = field(default_factory=list)
    order: list[int] = field(default_factory=list)


class PromptReader:
    def __init__(self, model: LoadedModel, cache_tokens: int) -> None:
        self._tokenizer = model.tokenizer
        self._bos = model.special_tokens.bos_id
        self._vocab_size = model.network.config.vocab_size
        self._longest_window = min(cache_tokens, model.network.config.context_length)
        self._images = model.images

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        """Token ids of `text`.

        Raises:
            BadInput: it holds what the vocabulary has no token for, not even an unknown one.
        """
        try:
            tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # tokenizers raises nothing narrower
            raise BadInput(f"the text cannot be tokenized: {error}") from error
        if add_special_tokens and self._bos is not None and tokens[:1] != [self._bos]:
            return [self._bos, *tokens]
        return tokens

    def decode(self, tokens: list[int]) -> str:
        """The text of `tokens`, special ones included.

        Raises:
            BadInput: a number that is no token.
        """
        check_tokens(tokens, self._vocab_size)
        return str(self._tokenizer.decode(tokens, skip_special_tokens=False))

    def tokenize(self, text: str, images: Sequence[bytes], add_special_tokens: bool) -> list[int]:
        """The tokens of a prompt, those of its images among them; no image is looked at.

        Raises:
            BadInput: as for `encode`, or an image is none, or has no place in the text.
        """
        return self._layout(text, images, add_special_tokens).tokens

    def read(self, request: Generate) -> PlacedPrompt:
        """A request's context and prompt, with its images.

        Raises:
            BadInput: as for `tokenize`, or an image is broken.
            PromptTooLong: there are images, and no room for all of it.
            OutOfMemory: there is too little memory for an image.
        """
        special = request.add_special_tokens and not request.context
        layout = self._layout(request.prompt, request.images, special)
        tokens, start = request.context + layout.tokens, len(request.context)
        if self._images is None or not layout.starts:
            return PlacedPrompt(tokens)
        fit_prompt(tokens, self.window(request), 0, may_cut=False)
        images = self._images.look(request.images)
        placed = [
            PlacedImage(images[index], start + first)
            for index, first in zip(layout.order, layout.starts, strict=True)
        ]
        return PlacedPrompt(tokens, tuple(placed))

    def window(self, request: Generate) -> int:
        """How many tokens a request's prompt and reply may have at any time."""
        return max(min(request.num_ctx, self._longest_window), _SHORTEST_WINDOW)

    def _layout(self, text: str, images: Sequence[bytes], add_special_tokens: bool) -> _Layout:
        if not images:
            return _Layout(self.encode(text, add_special_tokens))
        if self._images is None:
            raise BadInput("this model reads no images; leave them out, or use one that does")
        written, order = self._images.write(text, images)
        sizes = self._images.sizes(images)
        tokens = self.encode(written, add_special_tokens)
        in_order = [sizes[index] for index in order]
        return _Layout(*expand(tokens, self._images.image_token, in_order), order)
