"""Power sensors behind one Protocol, and the sampler that integrates one beside the client (docs/energy.md).

Loaded only by `potstill edge run --power`, `potstill edge power` and `potstill profiles calibrate`.
"""
