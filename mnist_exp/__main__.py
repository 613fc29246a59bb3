"""`python -m mnist_exp` is `mnist-exp`."""

import sys

from mnist_exp.cli import main

if __name__ == "__main__":
    sys.exit(main())
