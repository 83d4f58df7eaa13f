"""Torch modules: single networks, the supernet, its layers, weights, steps."""
