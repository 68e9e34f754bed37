import importlib.util
import subprocess
from pathlib import Path

import ncnn
import numpy as np
from common import model, planes, save

# Not imported: its Python part needs PyTorch, its program does not.
(place,) = importlib.util.find_spec("pnnx").submodule_search_locations
(program,) = [path for path in Path(place).rglob("pnnx") if path.is_file()]
program.chmod(0o755)
pixels = planes()
shape = ",".join(map(str, (1, *pixels.shape[1:])))
# fp16=0: weights stay float32.
subprocess.run([program, model, f"inputshape=[{shape}]", "fp16=0"], check=True)
net = ncnn.Net()
net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
stem = model.removesuffix(".onnx")
assert net.load_param(f"{stem}.ncnn.param") == net.load_model(f"{stem}.ncnn.bin") == 0
scores = []
for image in pixels:
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(image).clone())
    scores.append(np.array(extractor.extract("out0")[1]).ravel().copy())
save(scores)
