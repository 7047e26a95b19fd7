"""The `vestibule` command: what operators and developers type."""
