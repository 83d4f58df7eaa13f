"""What searches find, against random and hand-made nets that are trained alike."""
