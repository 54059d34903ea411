"""The other end of :func:`benchmarks.harness.in_process`."""

from __future__ import annotations

import json
import signal
import sys
from importlib import import_module
from pathlib import Path

import torch


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what it has started is ended with it
    module, function, threads, arguments, answer = sys.argv[1:]
    torch.set_num_threads(int(threads))
    result = getattr(import_module(module), function)(**json.loads(arguments))
    Path(answer).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
