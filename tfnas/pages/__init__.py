"""HTML pages that need nothing but themselves: what is gathered, then drawn."""
