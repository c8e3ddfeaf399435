"""Models written to files: quantized, with adapters merged, as GGUF or as transformers has them."""
