"""The loop inside a runner, and the only place that imports torch.

`Engine.step()` is one forward pass for all running sequences: scheduler -> executor -> sampler ->
detokenizer. It knows nothing of HTTP, stores, templates or processes.
"""
