"""Ours against what people would use instead, alternated in one run on one machine.

    pip install -r tools/benchmark-requirements.txt
    python tools/benchmark.py {train,transfer,infer,pipeline,evaluate,export,startup,imports,backup,
        growth,all} [--rounds 5]
    python tools/benchmark.py train --backend jax --net resnet50 --batch-size 256
    python tools/benchmark.py files --before FOLDER --after FOLDER

Every measurement is a process of its own, with a warm-up; ours and its peers take turns. Shown are
medians over the rounds; a ratio is taken within a round, and the median of the ratios is shown:
above 1, ours is better. A peer that is missing is a row that says so. What was measured, and on
which machine, is written to benchmark.json.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contestants import transfer
from contestants.pipelines import write_images
from contestants.workload import NETS, backend
from PIL import Image

TOOLS = Path(__file__).parent

# Ours stand on some of them, the peers are the others.
PACKAGES = (
    *("keras", "tensorflow", "jax", "numpy", "keras-hub", "torch", "timm", "onnxruntime"),
    *("ai-edge-litert", "tf2onnx", "openvino"),
)


def main() -> None:
    """Measure, print a table for each comparison, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=(*COMPARISONS, *ALONE, "all"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--net", choices=NETS, help="train: this network only")
    parser.add_argument("--batch-size", type=int, help="train: rather than 32 (CIFAR: 128)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="train: this type only")
    parser.add_argument(
        "--backend", choices=("tensorflow", "jax"), default=backend(),
        help="Keras' for ours; with jax, `train` needs no TensorFlow (default: KERAS_BACKEND)",
    )  # fmt: skip
    parser.add_argument("--images", type=int, default=1000, help="transfer: how many")
    parser.add_argument("--peer-python", default="/usr/bin/python3", help="has torchvision")
    parser.add_argument("--before", type=Path, help="files: a folder of model files")
    parser.add_argument("--after", type=Path, help="files: others of the same names")
    parser.add_argument("--out", type=Path, default=Path("benchmark.json"))
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend  # of the processes that measure
    answers = ALONE[options.what](options) if options.what in ALONE else compare(options)
    written = {
        "machine": machine(),
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        "measured": answers,
    }
    options.out.write_text(json.dumps(written, indent=1) + "\n")


def compare(options) -> dict[str, dict]:
    """The comparisons that were asked for, each printed as a table."""
    names = [options.what] if options.what != "all" else list(COMPARISONS)
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for title, unit, rows in COMPARISONS[name](options, folder):
                print(f"\n{title}", flush=True)
                rounds = [
                    {row: measure(*command, options) for row, command in rows.items()}
                    for _ in range(options.rounds)
                ]
                answers[title] = {"unit": unit, "rounds": rounds, "table": table(rounds, unit)}
                if any("first_epoch_seconds" in (r[row] or {}) for r in rounds for row in rows):
                    first = table(rounds, "first_epoch_seconds")
                    answers[title]["first_epoch"] = first
    return answers


def measure(worker: str, arguments: dict, options) -> dict | None:
    """One measurement in a fresh process; None where it cannot be made."""
    peer = worker.partition(".")[2].startswith("torchvision")
    command = [options.peer_python if peer else sys.executable, "-m", "contestants", worker]
    command += [json.dumps(arguments)]
    path = os.pathsep.join([str(TOOLS), *filter(None, [os.environ.get("PYTHONPATH")])])
    start = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        print(f"  {worker}: not measured ({reason})", file=sys.stderr, flush=True)
        return None
    return {"process_seconds": seconds, **json.loads(done.stdout.splitlines()[-1])}


def table(rounds: list[dict], unit: str) -> dict[str, dict]:
    """Print medians, and how often better the first row is than the others."""
    first, *_ = rounds[0]
    print(f"  {'':34}{unit.replace('_', ' '):>20}{'ours is':>12}{'peak MiB':>10}")
    answer = {}
    for name in rounds[0]:
        found = [r[name] for r in rounds if r[name] and unit in r[name]]
        if not found:
            print(f"  {name:34}{'not measured':>20}")
            continue
        answer[name] = {
            unit: statistics.median(f[unit] for f in found),
            "ours_is": _ours_is(rounds, first, name, unit),
            "peak_MiB": statistics.median(f["peak_MiB"] for f in found),
        }
        ratio = f"{answer[name]['ours_is']:10.2f} x" if answer[name]["ours_is"] else ""
        number = answer[name][unit]
        shown = f"{number:20,.0f}" if number >= 100 else f"{number:20.3g}"
        print(f"  {name:34}{shown}{ratio:>12}{answer[name]['peak_MiB']:10,.0f}", flush=True)
    return answer


def _ours_is(rounds: list[dict], first: str, name: str, unit: str) -> float | None:
    """The median of the rounds' ratios; None for ours itself, which may even be 0."""
    both = [(r[first], r[name]) for r in rounds if r[first] and r[name]]
    pairs = [(ours[unit], theirs[unit]) for ours, theirs in both]
    if name == first or not pairs:
        return None
    lower = unit.endswith("seconds") or unit in ("percent", "MiB")
    return statistics.median(b / a if lower else a / b for a, b in pairs)


def machine() -> dict:
    """What the numbers were measured on."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    model = next((x.split(":")[1].strip() for x in lines if "model name" in x), "unknown")
    flags = next((x.split(":")[1].split() for x in lines if x.startswith("flags")), [])
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": model,
        "has": [flag for flag in wanted if flag in flags],
        "cores": len(os.sched_getaffinity(0)),  # fewer under `taskset`
        "python": platform.python_version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "backend": backend(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- what is compared -------------------------------------------------------------------------


def compare_training(options, folder):
    """Training steps of the whole network on images that lie in memory."""
    for net, size in (("resnet50", 32), ("resnet18_cifar", 128)):
        for dtype in ("float32", "bfloat16"):
            if options.net not in (None, net) or options.dtype not in (None, dtype):
                continue
            work = {"net": net, "dtype": dtype, "batch": options.batch_size or size}
            rows = {"ours": ("training.ours", work)}
            if backend() == "tensorflow":
                rows["ours, --save-memory"] = ("training.ours", {**work, "save_memory": True})
            if net == "resnet50" and backend() == "tensorflow":
                rows["keras.applications"] = ("training.applications", work)
                rows["keras-hub"] = ("training.hub", work)
            rows["torch, eager"] = ("training.torch", work)
            rows["torch, compiled"] = ("training.torch", {**work, "compiled": True})
            rows["matrix products alone, torch"] = ("training.matrix_products", work)
            title = f"training {net}, {dtype}, batch {work['batch']}"
            yield title, "images_per_second", rows


def compare_transfer(options, folder):
    """A new last layer for a frozen ResNet-50 with random weights; the whole job."""
    transfer.write(Path(folder), options.images)
    rows = {
        "ours, 30 epochs": "ours",
        "ours, features each epoch (*)": "plain",
        "Keras' guide (*)": "guide",
        "one pass over the images": "forward",
    }
    print("(*) two epochs are measured; each of the other 28 counts as the second one")
    yield (
        f"new last layer for ResNet-50, {options.images:,} JPEGs of 500x375, 30 epochs",
        "seconds",
        {row: (f"transfer.{name}", {"folder": folder}) for row, name in rows.items()},
    )


def compare_inference(options, folder):
    """Prediction: batches of images in memory; one image on one thread for edge files."""
    yield (
        "predicting with ResNet-50, batch 32",
        "images_per_second",
        {
            "our predict loop": ("inference.predict_ours", {"folder": folder}),
            "keras.applications' predict": ("inference.predict_applications", {}),
        },
    )
    yield (
        "ONNX ResNet-50 in onnxruntime, batch 1, one thread",
        "images_per_second",
        {
            "our export": ("inference.onnx_ours", {"folder": folder}),
            "torch's export": ("inference.onnx_torch", {"folder": folder}),
        },
    )
    yield (
        "OpenVINO ResNet-50 1, batch 1, one thread",
        "images_per_second",
        {
            "our export": ("inference.openvino_ours", {"folder": folder, "quantize": "none"}),
            "keras.applications, converted": (
                "inference.openvino_applications",
                {"folder": folder},
            ),
            "our export, int8": ("inference.openvino_ours", {"folder": folder, "quantize": "int8"}),
        },
    )
    for kind in ("none", "int8"):
        theirs = {"folder": folder, "quantize": kind}
        for version, macs in (("1.5", "theirs, 1, has fewer multiply-adds"), ("1", "as theirs")):
            ours = {**theirs, "version": version}
            yield (
                f"TFLite ResNet-50 {version} ({macs}), {kind.replace('none', 'float')}, batch 1, "
                "one thread",
                "GMAC_per_second",
                {
                    "our export": ("inference.tflite_ours", ours),
                    "keras.applications, converted": ("inference.tflite_applications", theirs),
                },
            )


def compare_pipelines(options, folder):
    """JPEG files to augmented training batches on one core."""
    write_images(Path(folder))
    rows = ("ours", "torchvision", "bare_decode", "ours_with_rand_augment")
    yield (
        "training pipeline, 500x375 JPEG to 224x224, one core",
        "images_per_second",
        {name.replace("_", " "): (f"pipelines.{name}", {"folder": folder}) for name in rows},
    )
    yield (
        "the same at 176x176 with TrivialAugmentWide, antialiased as Pillow resizes",
        "images_per_second",
        {
            "ours, as torchvision's V2": ("pipelines.ours_v2", {"folder": folder}),
            "torchvision": ("pipelines.torchvision_v2", {"folder": folder}),
        },
    )
    yield (
        "memory that 20 epochs of the pipeline add",
        "MiB",
        {"ours": ("pipelines.memory", {"folder": folder})},
    )


def compare_evaluation(options, folder):
    """JPEG files in folders to scores, on all cores."""
    images = Path(folder) / "images"
    images.mkdir()
    write_images(images)
    for verb, others in (("evaluate", {"torchvision": "torchvision"}), ("predict", {})):
        peers = {"keras.applications": f"applications_{verb}", **others}
        yield (
            f"{verb}, 500x375 JPEG to the scores of ResNet-50, float32",
            "images_per_second",
            {
                name: (f"evaluation.{worker}", {"folder": folder})
                for name, worker in {"ours": f"ours_{verb}", **peers}.items()
            },
        )


def compare_exports(options, folder):
    """A trained network to files."""
    yield (
        "ResNet-50 to SavedModel, TFLite int8 and ONNX",
        "process_seconds",
        {"ours": ("inference.export_all", {"folder": folder})},
    )


def compare_startup(options, folder):
    """What a user waits for before anything happens."""
    yield (
        "to the first training step of ResNet-50, batch 8",
        "process_seconds",
        {
            "ours": ("startup.first_step_ours", {}),
            "keras.applications": ("startup.first_step_applications", {}),
        },
    )
    yield "python -m resnet_keras --help", "seconds", {"ours": ("startup.help_text", {})}


def compare_backups(options, folder):
    """What exact resume costs a run, at its default interval."""
    yield (
        "backup of ResNet-50 with SGD's momentum, share of the default interval of 10 minutes",
        "percent",
        {"ours": ("startup.backup_save", {"folder": folder})},
    )


COMPARISONS = {
    "train": compare_training,
    "transfer": compare_transfer,
    "infer": compare_inference,
    "pipeline": compare_pipelines,
    "evaluate": compare_evaluation,
    "export": compare_exports,
    "startup": compare_startup,
    "backup": compare_backups,
}


def compare_files(options) -> dict[str, dict]:
    """Files that two versions of this project wrote, in turns within one process for each."""
    answers = {}
    print(f"  {'':34}{'threads':>10}{'before, ms':>14}{'after, ms':>14}{'after / before':>16}")
    for after in sorted(options.after.iterdir()):
        before = options.before / after.name
        if after.suffix in (".json", ".md", ".bin") or not before.exists():
            continue
        for threads in (1, 2):
            work = {"before": str(before), "after": str(after), "threads": threads}
            if found := measure("inference.in_turns", work, options):
                answers[f"{after.name}, {threads} threads"] = found
                print(
                    f"  {after.name:34}{threads:>10}{found['before_ms']:>14.2f}"
                    f"{found['after_ms']:>14.2f}{found['ratio']:>16.3f}",
                    flush=True,
                )
    return answers


def growth(options) -> dict[str, list[dict]]:
    """Time and memory of a training step as batch, depth and image grow: a plot, too."""
    base = {"net": "resnet50", "dtype": options.dtype or "float32", "batch": 8}
    lines = {
        "batch size": ("batch", [2, 4, 8, 16, 32]),
        "depth": ("net", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]),
        "image's edge, pixels": ("size", [128, 192, 224, 320, 448]),
    }
    answers = {}
    for label, (field, values) in lines.items():
        answers[label] = points = []
        for value in values:
            work = {**base, field: value}
            if found := measure("training.ours", work, options):
                x = int("".join(filter(str.isdigit, str(value))))
                seconds = work["batch"] / found["images_per_second"]
                points.append({"x": x, "seconds": seconds, "peak_MiB": found["peak_MiB"]})
                print(f"{label} {x}: {seconds:.3f} s, {found['peak_MiB']:,.0f} MiB", flush=True)
    title = f"A training step of ResNet-50, {base['dtype']}, batch 8, 224x224, but for x"
    plot(answers, title, options.out.with_suffix(".png"))
    return answers


# What is run, in this order: the files of one are the next one's.
COMMANDS = {
    "--help": "--help",
    "zoo": "zoo",
    "summary": "summary resnet50",
    "doctor": "doctor",
    "run quickstart": "run quickstart --epochs 1 --run-dir run --no-verbose",
    "predict": "predict run/model.keras image.png",
    "evaluate": "evaluate run/model.keras",
    "report": "report run",
    "export, TFLite": "export run/model.keras x.tflite",
    "export, ONNX": "export run/model.keras x.onnx",
    "convert": "convert run/model.keras x.safetensors",
}


def imports(options) -> dict[str, dict]:
    """Seconds of imports that each command makes, by package."""
    answers = {}
    with tempfile.TemporaryDirectory() as folder:
        Image.new("L", (8, 8)).save(Path(folder, "image.png"))
        for name, command in COMMANDS.items():
            work = {"folder": folder, "arguments": shlex.split(command)}
            if found := measure("startup.imports", work, options):
                packages = found["packages"]
                answers[name] = {"seconds": sum(packages.values()), "packages": packages}
                most = ", ".join(f"{n} {seconds:.2f}" for n, seconds in [*packages.items()][:6])
                print(f"  {name:18}{answers[name]['seconds']:7.2f} s: {most}", flush=True)
    return answers


ALONE = {"growth": growth, "files": compare_files, "imports": imports}


def plot(answers: dict[str, list[dict]], title: str, path: Path) -> None:
    """Draw what `growth` measured."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 3, figsize=(11, 6), sharey="row", layout="constrained")
    for column, (label, points) in enumerate(answers.items()):
        x = [point["x"] for point in points]
        axes[0][column].plot(x, [point["seconds"] for point in points], "o-")
        axes[1][column].plot(x, [point["peak_MiB"] / 1024 for point in points], "o-")
        axes[1][column].set_xlabel(label)
    axes[0][0].set(ylabel="seconds a step", ylim=(0, None))
    axes[1][0].set(ylabel="peak memory, GiB", ylim=(0, None))
    figure.suptitle(title)
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
