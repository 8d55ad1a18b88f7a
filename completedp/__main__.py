"""`python -m completedp`, which is how torchrun starts it: the console script by another name."""

from completedp.cli import main

if __name__ == "__main__":
    main()
