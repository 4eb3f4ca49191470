"""`python -m secguard`."""

from secguard.cli.main import main

if __name__ == "__main__":
    main()
