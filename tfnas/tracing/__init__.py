"""Somebody's own torch net as a net of ours, and a space around it."""
