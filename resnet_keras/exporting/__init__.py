"""Export a trained model to a file of any format, or a page, and prove that it computes the same.

`convert` writes the file, `prove` compares it with the model, `publish` puts it in its place.
"""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, Unpack

import keras
import numpy as np

from resnet_keras.clones import all_layers
from resnet_keras.console import command, say
from resnet_keras.data import Split
from resnet_keras.errors import InputError
from resnet_keras.evaluation import batches, open_split_for, require_fit, source_for
from resnet_keras.exporting import publish
from resnet_keras.exporting.convert import (
    Calibration,
    convert,
    exportable,
    folded,
    image_calibration,
    tuned_calibration,
)
from resnet_keras.exporting.options import Options, Settings, settle
from resnet_keras.exporting.prove import BOUNDS, compare, latencies, prove, size
from resnet_keras.exporting.publish import is_finished
from resnet_keras.files import whole
from resnet_keras.model_files import (
    Metadata,
    ModelFile,
    open_model_file,
    require_unchanged,
    warn_of_missing_metadata,
)
from resnet_keras.model_files.formats import KERAS
from resnet_keras.model_files.keras import plain, save_plain
from resnet_keras.report.text import CLIENTS

__all__ = [
    "BOUNDS",
    "BoundMissed",
    "Options",
    "compare",
    "export",
    "folded",
    "is_finished",
    "plain",
    "save_plain",
]

# Float32's own rounding: the error of a layer that computes the same in int8.
_NO_ERROR = 1e-6


class BoundMissed(Exception):
    """An exported file differs too much, or needs operators that not every runtime has."""


def export(
    model_file: str | Path,
    out: str | Path,
    *,
    split: str | Split | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    skip_bad: bool = False,
    examples: int = 256,
    bound: float | None = None,
    seed: int = 0,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Convert a `.keras` model, and prove on real test images that the file computes the same.

    Args:
        model_file: a `.keras` file.
        out: `.tflite`, `.onnx`, `.xml` (OpenVINO), `.keras`, or a name without suffix: a
            SavedModel.
        split: of the images that the proof runs on, by default those that the model was tested on;
            or an opened split, for which the next three are not used.
        dataset: of these images; by default the data set that the model was trained on.
        data_dir: where prepared data sets are.
        skip_bad: leave out the bad files of a folder.
        examples: how many images.
        bound: of the measure that `BOUNDS` has for `quantize`, in place of its value there.
        seed: of the choice of calibration images.
        **options: how the file is made: see `Options`.

    Returns:
        The report, as it is written to `OUT.report.json`; beside it, `OUT.md` is a model card for
        people (Hugging Face's front matter). It holds:

        - `model_file`, `dataset`, `split`, and what `compare` found: `examples`, `max_difference`,
          `mean_difference`, `mean_largest_difference`, `difference_of`, `top1_agreement`, `top1`,
          `top1_source`, `decision_agreement`; of a model that gives an image any number of labels
          also `map`, `map_source`;
        - of a quantized file `unquantized_max_difference`, of the same in float32;
        - `measure`, `bound`, `further_bounds`, `kept`, `reason`: the verdict;
        - `quantize`, `io`, `keep_float`, `layout`, `opset`, `signatures`, `rgb_input`, and
          `calibration` (`dataset`, `split`, and `examples`, `seed`, or that it is `fine_tuned`):
          how it was made, None where it does not apply;
        - `layers`: of int8, `layer` and `error`, the largest first: what quantizing this layer
          alone changes, as a share of what its output distinguishes (see `LayerErrors`);
        - `operators` and how often each is there; `bytes`, `bytes_source` and, if quantized,
          `bytes_float32` of the same format in float32;
        - if kept, `latency_ms` of one image, `latency_ms_source`, `latency_ms_float32`, by
          threads, measured in turns, and `cores` of this machine;
        - `seconds` that all took, `command`; of a page also `format`; if kept, `clients`, the page
          about the programs that open it.

    Raises:
        InputError: a file, data set, layer or format that is not there, options that do not go
            together, or a model that the format cannot hold.
        BoundMissed: the result is not equal; no new `out` is left, and an old one is as it was. The
            report says how far it is.
    """
    start = time.perf_counter()
    path, out = Path(model_file), Path(os.path.abspath(out))
    _require_numbers(examples, seed, bound)
    settings = settle(path, out, options)
    publish.require_replaceable(out, settings)
    # As Keras runs it: what is proved may not share the folding with what proves it.
    original = open_model_file(path, folded=False)
    model = exportable(original, settings)
    warn_of_missing_metadata(original)
    # A single sigmoid decides between two classes; the proof needs no labels then.
    fitted = original if original.classes != 1 else dataclasses.replace(original, classes=None)
    if isinstance(split, Split):
        require_fit(fitted, split)
    else:
        source = source_for(
            original, split=split, dataset=dataset, data_dir=data_dir, skip_bad=skip_bad
        )
        split = open_split_for(fitted, source)
    job = _Job(start, path, out, settings, original, split, examples, bound)
    return job.run(model, job.calibration(seed))


def _require_numbers(examples: int, seed: int, bound: float | None) -> None:
    """Refuse arguments of `export` out of their ranges."""
    if examples < 1:
        raise InputError(f"`examples` must be above 0. Received: examples={examples}")
    if seed < 0:
        raise InputError(f"`seed` must be 0 or more. Received: seed={seed}")
    if bound is not None and not bound >= 0:  # nor NaN
        raise InputError(f"`bound` must be 0 or more. Received: bound={bound}")


@dataclasses.dataclass(frozen=True)
class _Job:
    """An export whose arguments are checked, and whose files are open.

    Attributes:
        start: when it began, of `time.perf_counter`.
        source: the model file.
        out: what is written.
        settings: how.
        original: the model file, open and not folded.
        test: the split that the proof runs on.
        examples: as of `export`.
        bound: likewise.
    """

    start: float
    source: Path
    out: Path
    settings: Settings
    original: ModelFile
    test: Split
    examples: int
    bound: float | None

    def calibration(self, seed: int) -> Calibration | None:
        """Find the ranges for int8, or the images that give them."""
        if self.settings.quantize != "int8":
            return None
        if tuned := tuned_calibration(self.source, self.original, self.settings):
            return tuned
        split = self.settings.calibrate
        if not isinstance(split, Split):
            dataset = split or self.original.metadata.dataset
            test = self.test.source or source_for(self.original, dataset=dataset)
            channels = self.original.channels if self.original.channels in (1, 3) else 3
            split = dataclasses.replace(
                test, dataset=dataset or test.dataset, split="train", channels=channels
            ).open()
        return image_calibration(self.original, split, seed)

    def run(self, model: keras.Model, calibration: Calibration | None) -> dict[str, Any]:
        """Convert, prove and publish."""
        settings, metadata = self.settings, self._metadata
        # Before the long work: data that cannot be read is found now.
        image, _ = next(batches(self.original, self.test, 1))
        with whole(self.out) as part:
            file = publish.proved(part, settings)
            original = self._in_float32(model, part)
            say(f"converting to {settings.format.name}, {settings.precision}")
            errors = convert(model, file, metadata, settings, calibration)
            candidate = open_model_file(file, folded=False)
            unquantized = self._unquantized(model, file)
            report = self._facts(calibration, errors)
            report |= self._proof(original, candidate, unquantized)
            if report["kept"]:
                report |= self._measured(original, candidate, unquantized, image)
            seconds = round(time.perf_counter() - self.start, 1)
            report |= {"seconds": seconds, "command": command()}
            report |= {"clients": CLIENTS} if report["kept"] else {}
            if not report["kept"]:
                publish.write_report(report, self.out)
                raise BoundMissed(
                    f"{self.out} was not kept: {report['reason']} (compared with {self.source})."
                )
            require_unchanged(self.original)  # what is exported stands beside its model
            report = publish.prepare(report, part, self.out, metadata, settings)
        publish.finish(report, self.out, metadata, settings)
        return report

    @property
    def _metadata(self) -> Metadata:
        """What is written about OUT."""
        rgb_input = bool(self.settings.rgb_input)
        return dataclasses.replace(self.original.metadata, rgb_input=rgb_input)

    def _in_float32(self, model: keras.Model, part: Path) -> ModelFile:
        """Return the original; of a model in half precision, a copy that computes in float32."""
        if all(layer.compute_dtype == "float32" for layer in all_layers(model)):
            return self.original
        say(f"{self.source} computes in {model.dtype_policy.name}; float32 is what is exported")
        copy = part.with_name(f"plain-{part.name}{KERAS.suffix}")
        save_plain(model, copy)
        opened = open_model_file(copy, folded=False)
        facts = {name: getattr(self.original, name) for name in ("path", "metadata", "stamp")}
        return dataclasses.replace(opened, **facts)

    def _unquantized(self, model: keras.Model, file: Path) -> ModelFile | None:
        """Write the same as a quantized file in float32, beside it; None if it is not quantized."""
        if self.settings.quantize == "none":
            return None
        float32 = file.with_name(f"float32-{file.name}")
        convert(model, float32, self._metadata, self.settings.in_float32())
        return open_model_file(float32, folded=False)

    def _proof(
        self, original: ModelFile, candidate: ModelFile, unquantized: ModelFile | None
    ) -> dict[str, Any]:
        """Compare the file with the model."""
        source = self.test.source
        images = f"{source.split} images of {source.dataset}" if source else "images"
        say(f"proving on {self.examples} {images}")
        dataset = {"dataset": source and source.dataset, "split": source and source.split}
        return dataset | prove(
            original,
            candidate,
            self.test,
            self.settings,
            unquantized=unquantized,
            examples=self.examples,
            bound=self.bound,
        )

    def _measured(
        self,
        original: ModelFile,
        candidate: ModelFile,
        unquantized: ModelFile | None,
        image: np.ndarray,
    ) -> dict[str, Any]:
        """Measure latency; of a quantized file also latency and bytes of the same in float32."""
        say("measuring latency")
        files = {"latency_ms": candidate, "latency_ms_source": original}
        facts: dict[str, Any] = {"cores": os.cpu_count()}
        if unquantized is not None:
            facts["bytes_float32"] = size(self.settings.format.files(unquantized.path))
            files["latency_ms_float32"] = unquantized
        return latencies(files, image) | facts

    def _facts(self, calibration: Calibration | None, errors: dict[str, float]) -> dict[str, Any]:
        """Say how the file was made."""
        ranked = sorted(errors.items(), key=lambda pair: -pair[1])
        return {
            "model_file": str(self.source),
            **self.settings.described(),
            "calibration": calibration and calibration.origin,
            "layers": [
                {"layer": layer, "error": float(f"{error:.3g}")}
                for layer, error in ranked
                if error > _NO_ERROR
            ],
            "bytes_source": size([self.source]),
        }
