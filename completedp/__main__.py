"""The program: the console script, and `python -m completedp`, which is how torchrun starts it."""

import sys

from completedp import interrupts


def main() -> None:
    """Hear Ctrl-C from the first moment on, also while the command line is imported."""
    try:
        interrupts.listen()
        from completedp.cli.app import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
