"""What takes samples, here or on a board; it is sent there as it is, and needs nothing else."""
