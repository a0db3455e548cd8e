"""The command line by ``python -m corrmask``, where the script `corrmask` is not on the path."""

from corrmask.cli import main

if __name__ == "__main__":
    main()
