"""What a running process needs: ranks, signals, statuses, progress."""
