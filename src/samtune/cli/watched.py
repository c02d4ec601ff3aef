"""`python -m samtune.cli.watched COMMAND ...`: a command that ends when the process that started it is gone.

Whoever starts it keeps a pipe open as its standard input, and never writes to it. However that process ends, SIGKILL
included, the system closes the pipe; the command then stops as it does at SIGTERM: what it has is saved.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from samtune.cli import main


def _end_at_end_of_input() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_at_end_of_input, daemon=True).start()
    main()
