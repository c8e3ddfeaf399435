"""Checkpoints: files -> a Hugging Face style config, tensors and a tokenizer."""
