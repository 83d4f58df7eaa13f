"""Parts that strategies are made of, each usable alone."""
