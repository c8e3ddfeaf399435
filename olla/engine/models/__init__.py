"""Architectures: what is computed in a forward pass, given weights and a cache."""
