"""What a search does from its inputs to a verified file."""
