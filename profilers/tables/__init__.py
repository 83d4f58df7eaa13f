"""Latency tables of devices: what is measured, building, cards, the closed loop."""
