"""Image sets and their batches, one file a format."""
