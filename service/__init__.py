"""Vestibule: signs people up and in, hands out revocable tokens, and answers for them to other services."""

__version__ = "0.1.0"
