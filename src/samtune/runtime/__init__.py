"""Where and how to compute: device, precision, matrix products, memory, several processes."""
