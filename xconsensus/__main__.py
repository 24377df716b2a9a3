"""``python -m xconsensus``: the command line where its script is not on the path."""

from xconsensus.cli import main

if __name__ == "__main__":
    main()
