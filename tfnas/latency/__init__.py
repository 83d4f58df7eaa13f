"""Latency tables: what was measured, what may be read, and what others published."""
