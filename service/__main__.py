"""`python -m service` is `vestibule`."""

from service.cli.main import main

if __name__ == "__main__":
    main()
