"""olla: a local model server that speaks Ollama's API over PyTorch and transformers."""

__version__ = "0.1.0"
