"""`python -m harness` is `harness`; so is `torchrun -m harness`."""

from harness.cli.main import main

if __name__ == "__main__":
    main()
