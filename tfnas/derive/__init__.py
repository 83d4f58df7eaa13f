"""From what a search learned to a subnet that meets its target, exactly."""
