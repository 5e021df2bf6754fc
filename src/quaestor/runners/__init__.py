"""Does what the flows ask for. The only place that performs I/O."""
