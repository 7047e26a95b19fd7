"""What operators and probes look at."""
