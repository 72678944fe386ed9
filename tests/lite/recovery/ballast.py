"""Another program that takes the graphics card's memory: run beside a test, it does what it is told line by line.

take N     all free memory but N bytes, once; it answers "taken"
keep N     the same, again and again from now on, so that what others give back is gone as well; it answers "keeping"
The end of its input ends it.
"""

from __future__ import annotations

import sys
import threading
import time

import torch

PIECE_BYTES = 2 << 20  # what the driver hands out at least


def take(leave_bytes: int, held: list[torch.Tensor]) -> None:
    """Hold what is free, in pieces as large as can be had."""
    size = torch.cuda.mem_get_info()[0] - leave_bytes
    while size >= PIECE_BYTES:
        try:
            held.append(torch.empty(size // PIECE_BYTES * PIECE_BYTES, dtype=torch.uint8, device="cuda"))
        except torch.OutOfMemoryError:
            size //= 2
            continue
        size = torch.cuda.mem_get_info()[0] - leave_bytes


def keep_taking(leave_bytes: int, held: list[torch.Tensor]) -> None:
    while True:
        take(leave_bytes, held)
        time.sleep(0.001)


def main() -> None:
    held = [torch.zeros(1, device="cuda")]
    print("ready", flush=True)
    for line in sys.stdin:
        word, amount = line.split()
        take(int(amount), held)
        if word == "keep":
            threading.Thread(target=keep_taking, args=(int(amount), held), daemon=True).start()
        print({"take": "taken", "keep": "keeping"}[word], flush=True)


if __name__ == "__main__":
    main()
