"""Rotary position embedding: cosines and sines of positions, and their use on queries and keys.

Follows transformers' `rotate_half` layout: the first half of a head pairs with the second.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from olla.engine.models.config import RopeConfig


class Rope:
    """Tables of one kind of layer.

    Args:
        factors: divisors of the frequencies, as GGUF's `rope_freqs.weight` has them for Llama 3.1
            (the same numbers that "llama3" scaling computes); None for none.
    """

    def __init__(
        self, config: RopeConfig, head_dim: int, device: torch.device, factors: Tensor | None = None
    ) -> None:
        self.rotary_dim = int(head_dim * config.rotary_fraction)
        exponents = torch.arange(0, self.rotary_dim, 2, dtype=torch.int64).float()
        frequencies = 1.0 / (config.theta ** (exponents / self.rotary_dim))
        if factors is not None:
            frequencies = frequencies / factors.float().cpu()
        elif config.scaling == "linear":
            frequencies = frequencies / config.factor
        elif config.scaling == "llama3":
            frequencies = _llama3(frequencies, config)
        self.frequencies = frequencies.to(device)

    def tables(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine of `positions` (num_tokens,), each (num_tokens, 1, rotary_dim)."""
        angles = positions.float()[:, None] * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, None, :]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def frequency_factors(config: RopeConfig, head_dim: int) -> Tensor | None:
    """By what Llama 3.1's scaling divides the frequencies, as GGUF keeps it; None without it."""
    if config.scaling != "llama3":
        return None
    cpu = torch.device("cpu")
    plain = Rope(replace(config, scaling="default"), head_dim, cpu)
    return plain.frequencies / Rope(config, head_dim, cpu).frequencies


def rotate(states: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate `states` (num_tokens, num_heads, head_dim); what lies past rotary_dim stays."""
    cosine, sine = tables
    rotary_dim = cosine.shape[-1]
    turned = states[..., :rotary_dim]
    first, second = turned.chunk(2, dim=-1)
    turned = turned * cosine + torch.cat((-second, first), dim=-1) * sine
    if rotary_dim == states.shape[-1]:
        return turned
    return torch.cat((turned, states[..., rotary_dim:]), dim=-1)


def _llama3(frequencies: Tensor, config: RopeConfig) -> Tensor:
    """Llama 3.1's scaling: long waves are stretched, short ones kept, the rest blended."""
    wavelengths = 2 * math.pi / frequencies
    ratio = config.original_context_length / wavelengths
    blend = (ratio - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor)
    blend = blend.clamp(0.0, 1.0)
    return (1 - blend) * frequencies / config.factor + blend * frequencies
