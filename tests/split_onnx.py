"""A format of model files on trial: ONNX whose weights lie in a second file, `NAME.bin`.

With its row, `ROW`, it is all that a new format takes: see `test_model_files_formats.py`.
"""

import onnx

from resnet_keras.model_files import onnx as whole
from resnet_keras.model_files.formats import Format, Option
from resnet_keras.model_files.onnx import open_file, operators, unwelcome

__all__ = ["ROW", "SNIPPET", "open_file", "operators", "unwelcome", "write"]

ROW = Format(
    "Split ONNX",
    ".split",
    "split_onnx",
    library="onnx",
    options={"layout": Option(("nhwc", "nchw"), "nchw")},
    threads=True,
    companions=(".bin",),
)

SNIPPET = whole.SNIPPET


def write(model, path, metadata, *, layout):
    whole.write(model, path, metadata, layout=layout)
    content = onnx.load(path)
    onnx.save_model(
        content,
        path,
        save_as_external_data=True,
        location=path.with_suffix(".bin").name,
        size_threshold=1024,  # shapes stay inside, where they are needed first
    )
    return {}
