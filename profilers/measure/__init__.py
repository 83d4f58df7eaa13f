"""From samples to a latency: sessions, estimates, the last word on a net."""
