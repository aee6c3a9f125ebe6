"""`python -m kdad.data.check`, as it was called in version 0.1: see `kdad/check.py`."""

from kdad.check import main

if __name__ == "__main__":
    main()
