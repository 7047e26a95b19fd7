"""Stands for foreign sign-in providers, so that social sign-in can be tried by hand and tested offline."""
