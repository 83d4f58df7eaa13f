"""How true latencies are, and what measuring them costs."""
