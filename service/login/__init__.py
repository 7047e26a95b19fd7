"""How people come in again: password, refresh, sign-out."""
