"""Everything that reads a clock or talks to a device."""
