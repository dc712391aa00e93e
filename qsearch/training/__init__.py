"""Training a network under quantisers: quantisation-aware training, and what is built on it."""
