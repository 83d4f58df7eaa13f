"""Files: written atomically, read bounded, decoded by their types; checkpoints."""
