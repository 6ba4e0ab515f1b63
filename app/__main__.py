"""`python -m app`: the command line."""

import sys

from app import cli


def main() -> None:
    """Run the command line and end with its exit code."""
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
