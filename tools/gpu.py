"""Everything that is measured on a machine with one GPU, in one command of at most eight minutes.

    python tools/gpu.py [PART ...] [--minutes 8] [--out gpu.json] [--rehearse]

Needs JAX and PyTorch for the GPU, and TensorFlow (the CPU build suffices, see
tools/pack_wheels.sh) to read data; no network. Each part is measured in processes of its own, which
are stopped at the part's time limit; after each answer, the JSON file is written anew, so that a
command that is cut off leaves what it has measured. What cannot be measured is a row that says why.

`--rehearse` does the same in tiny sizes on a CPU: it shows that the command works, and nothing
else.
"""

import argparse
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

TOOLS = Path(__file__).parent


@dataclass(frozen=True)
class Part:
    """What is measured together.

    Attributes:
        seconds: its time limit.
        workers: by the name of their row, a worker of `contestants` and its arguments.
        rounds: how often all of them take turns.
        at_once: they run side by side, because nothing is timed.
    """

    seconds: float
    workers: dict[str, tuple[str, dict]] = field(default_factory=dict)
    rounds: int = 1
    at_once: bool = False


def parts(folder: str) -> dict[str, Part]:
    """The parts, in the order in which they are measured."""
    work = {"net": "resnet50", "batch": 256, "seconds": 5.0}

    def training(dtype, rounds):
        here = {**work, "dtype": dtype}
        torch = {**here, "compiled": True}
        rows = {"ours": ("training.ours", here), "torch, compiled": ("training.torch", torch)}
        return Part(180.0 * rounds, rows, rounds)

    changes = {**work, "dtype": "bfloat16", "seconds": 2.0, "folder": f"{folder}/profile"}
    predict = {"net": "resnet50", "dtype": "float16", "batches": [1, 32, 256], "seconds": 2.0}
    images = {"folder": f"{folder}/data", "images": 5000}
    whole = {"folder": f"{folder}/data", "net": "resnet50", "model": "resnet50", "size": 224}
    short = "recipes/fashion_mnist_resnet20_short.py"
    quick = ["--epochs", "10"]
    return {
        "machine": Part(60, {"machine": ("accelerator.machine", {"edge": 8192, "seconds": 1.0})}),
        "training bfloat16": training("bfloat16", 1),
        "changes": Part(170, {"ours": ("accelerator.variants", changes)}),
        "training float16": training("float16", 1),
        "images": Part(60, {"images": ("runs.images", images)}),
        "recipe": Part(90, {"ours": ("runs.recipe", {**whole, "batch": 256, "steps": 40})}),
        "inference": Part(
            120,
            {
                "ours": ("accelerator.inference_ours", {**predict, "constants": False}),
                "ours, constant weights": (
                    "accelerator.inference_ours",
                    {**predict, "constants": True},
                ),
                "torch, compiled": ("accelerator.inference_torch", predict),
            },
        ),
        "memory": Part(
            120,
            {
                dtype: ("accelerator.memory", {**_without(work), "dtype": dtype})
                for dtype in ("bfloat16", "float32")
            },
            at_once=True,
        ),
        "exactness": Part(
            150,
            {
                "float16 and exact resume": (
                    "runs.exactness",
                    {
                        "recipe": "recipes/quickstart.py",
                        "flags": quick,
                        "folder": f"{folder}/runs",
                        "kill_after": 100,
                    },
                ),
                "float16": (
                    "runs.float16",
                    {
                        "model": "resnet18_cifar",
                        "dataset": "fashion_mnist",
                        "steps": 300,
                        "batch": 128,
                    },
                ),
            },
            at_once=True,
        ),
        "accuracy": Part(
            400,
            {
                "short": (
                    "runs.accuracy",
                    {
                        "recipe": short,
                        "flags": [],
                        "seeds": [0, 1, 2],
                        "folder": f"{folder}/accuracy",
                    },
                )
            },
        ),
    }


def _without(work: dict) -> dict:
    return {"net": work["net"], "batches": [64, 256, 512]}


# What a rehearsal has instead of the arguments of that name.
TINY = {
    "net": "tiny", "batch": 4, "seconds": 0.05, "edge": 64, "batches": [1, 2], "images": 24,
    "model": "resnet20_cifar", "size": 32, "steps": 3, "dataset": "digits",
    "recipe": "recipes/quickstart.py", "flags": ["--epochs", "1"], "seeds": [0], "kill_after": 10,
}  # fmt: skip


def main() -> None:
    """Measure the parts that were asked for; print and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all, in their order")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all of them")
    parser.add_argument("--out", type=Path, default=Path("gpu.json"))
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, on a CPU")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    answers: dict[str, dict] = {}
    found = {
        "command": shlex.join(["python", "tools/gpu.py", *sys.argv[1:]]),
        "python": platform.python_version(),
        "rehearsal": options.rehearse,
        "parts": answers,
    }
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        known = parts(folder)
        if odd := [name for name in options.parts if name not in known]:
            parser.error(f"no such part: {odd[0]!r}; there are {', '.join(known)}")
        environment = _environment(folder, options.rehearse)
        for name, part in known.items():
            if options.parts and name not in options.parts:
                continue
            answers[name] = {}
            start = time.monotonic()
            for _ in range(part.rounds):
                until = min(start + part.seconds, end)
                _measure(part, until, environment, answers[name], options)
                _write(options.out, found)
            _show(name, answers[name], time.monotonic() - start)


def _environment(folder: str, rehearse: bool) -> dict[str, str]:
    """The variables of the processes that measure."""
    path = [str(TOOLS), str(TOOLS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    ours = {
        "KERAS_BACKEND": "jax",
        "PYTHONPATH": os.pathsep.join(path),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONUNBUFFERED": "1",
        "TFDS_DATA_DIR": f"{folder}/tfds",
        # What has been compiled once, for the next round and the next part; both libraries.
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/jax",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        # Several processes share the device in some parts.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    }
    if rehearse:
        quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        ours |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "XLA_FLAGS": quick}
    return {**os.environ, **ours}


def _measure(
    part: Part, until: float, environment: dict, answers: dict[str, list], options
) -> None:
    """Measure one round of a part: add an answer to each row."""

    def run(row):
        worker, arguments = part.workers[row]
        if options.rehearse:
            arguments = {name: TINY.get(name, value) for name, value in arguments.items()}
        answer = _answer(worker, arguments, until, environment)
        answers.setdefault(row, []).append(answer)

    threads = [threading.Thread(target=run, args=(row,)) for row in part.workers]
    for thread in threads:
        thread.start()
        if not part.at_once:
            thread.join()
    for thread in threads:
        thread.join()


def _answer(worker: str, arguments: dict, until: float, environment: dict) -> dict:
    """The last answer that a worker gives before its time is over."""
    left = until - time.monotonic()
    if left < 5:
        return {"not_measured": "no time was left"}
    command = [sys.executable, "-m", "contestants", worker, json.dumps(arguments)]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that the processes which it starts end with it
    )
    try:
        output, errors = process.communicate(timeout=left)
        reason = None if process.returncode == 0 else _last_line(errors)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, errors = process.communicate()
        reason = f"stopped after {left:.0f} s"
    if reason:
        print(f"--- {worker}: {reason}\n{errors[-3000:]}", file=sys.stderr, flush=True)
    lines = [line for line in output.splitlines() if line.startswith("{") and line.endswith("}")]
    answer = json.loads(lines[-1]) if lines else {}
    return answer | ({"not_measured": reason} if reason else {})


def _last_line(errors: str) -> str:
    return (errors.strip() or "no message").splitlines()[-1][:300]


def _write(path: Path, found: dict) -> None:
    """Write the JSON file, whole or not at all."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(found, indent=1) + "\n")
    part.replace(path)


def _show(name: str, answers: dict[str, list], seconds: float) -> None:
    """Print a part, without its long lists."""
    print(f"\n{name} ({seconds:.0f} s)", flush=True)
    for row, rounds in answers.items():
        for answer in rounds:
            for key, value in answer.items():
                print(f"  {row:24} {key}: {_short(value)}", flush=True)


def _short(value) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        inner = [f"{k} {_short(v)}" for k, v in value.items() if not isinstance(v, list)]
        return ", ".join(inner)
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


if __name__ == "__main__":
    main()
