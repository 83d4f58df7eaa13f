"""What is waited for beside computing: starting, and data."""
