"""One measurement, in a process of its own; one line of JSON on stdout.

PYTHONPATH=tools python -m contestants pipelines.ours '{"folder": "my_images"}'
"""

import importlib
import json
import os
import resource
import sys

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as resnet_keras does


def main() -> None:
    """Do what was asked for; add the peak of memory. A worker that yields gets a line for each."""
    worker, arguments = sys.argv[1:]
    module, _, function = worker.partition(".")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print, too
    measure = getattr(importlib.import_module(f"contestants.{module}"), function)
    found = measure(**json.loads(arguments))
    for answer in [found] if isinstance(found, dict) else found:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux
        print(json.dumps({"peak_MiB": peak, **answer}), file=out, flush=True)
    os._exit(0)  # threads of a pipeline may still run


if __name__ == "__main__":
    main()
