"""``python -m wattribute``: the command."""

from wattribute.cli import main

if __name__ == "__main__":
    main()
