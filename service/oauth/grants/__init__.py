"""The grants of `POST /token`, each in a file of its own."""
