"""Steps of the supernet against plain forms: time, memory, truth."""
