"""`python -m fixia_shardmig` is the same as `shardmig`."""

from fixia_shardmig.cli import main

if __name__ == "__main__":  # worker processes import this module too
    main()
