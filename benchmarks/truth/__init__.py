"""Search methods judged by accuracies that others published."""
