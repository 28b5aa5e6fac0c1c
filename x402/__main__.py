"""`python -m x402` is the command `x402`."""

from x402.cli import main

if __name__ == "__main__":
    main()
