"""Writes .env with fresh secrets for compose.yaml, unless there is one already."""

import base64
import os
import secrets
import sys
from pathlib import Path

FILE = Path(__file__).parent.parent / ".env"


def main() -> None:
    try:
        descriptor = os.open(FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(".env exists already: remove it first if the secrets in it may go")
    root_key = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(f"POSTGRES_PASSWORD={secrets.token_hex(24)}\n")
        file.write(f"VALKEY_PASSWORD={secrets.token_hex(24)}\n")
        file.write(f"VESTIBULE_KEYS=1:{root_key}\n")


if __name__ == "__main__":
    main()
