"""Write checkpoints with timm, torchvision, transformers and KerasHub: see test_peers.py."""

import shutil
import sys
from pathlib import Path

import keras
import keras_hub
import numpy as np
import torch
import transformers

# PyPI's torchvision is built for GPUs: beside a PyTorch for CPUs its own operators are missing,
# which none of these networks needs, but which it wants to describe when it is imported.
OPERATORS = torch.library.Library("torchvision", "DEF")
for name in (
    *("nms", "qnms", "roi_align", "_roi_align_backward", "roi_pool", "_roi_pool_backward"),
    *("ps_roi_align", "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward"),
    *("deform_conv2d", "_deform_conv2d_backward"),
):
    OPERATORS.define(f"{name}(Tensor a) -> Tensor")

import timm  # noqa: E402
import torchvision  # noqa: E402

FOLDER = Path(sys.argv[1])
MEAN = torch.tensor((123.675, 116.28, 103.53)).reshape(3, 1, 1)
STD = torch.tensor((58.395, 57.12, 57.375)).reshape(3, 1, 1)


def randomised(model):
    """As trained networks are, no norm is the identity, and no block is silent."""
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        elif key.endswith("running_var") or value.ndim == 1:
            value.uniform_(0.5, 1.0)
    return model.eval()


torch.manual_seed(0)
pixels = torch.randint(0, 256, (2, 3, 96, 64)).float()
images = (pixels - MEAN) / STD
truth = {"pixels": pixels.permute(0, 2, 3, 1)}

networks = {
    f"timm_{name}": timm.create_model(name, pretrained=False)
    for name in ("resnet18", "resnet50", "resnet18d", "resnet50d", "resnet50c", "resnetaa50")
}
for name, stride in (
    ("resnet50", 8), ("resnet50d", 8), ("resnet50d", 16), ("resnet18", 8), ("resnet18d", 16)
):  # fmt: skip
    networks[f"timm_{name}_{stride}"] = timm.create_model(name, output_stride=stride)
for name in ("resnet34", "resnet50"):
    networks[f"torchvision_{name}"] = getattr(torchvision.models, name)(weights=None)
for name, model in networks.items():
    truth[name] = randomised(model)(images)
    torch.save(model.state_dict(), FOLDER / f"{name}.pth")

kinds = {
    "basic": {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]},
    "bottleneck": {},
    "caffe": {"downsample_in_bottleneck": True},
}
for kind, changes in kinds.items():
    config = transformers.ResNetConfig(num_labels=5, **changes)
    model = randomised(transformers.ResNetForImageClassification(config))
    folder = FOLDER / f"transformers_{kind}"
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": 224}, crop_pct=0.875,
        image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip
    processor.save_pretrained(folder)
    truth[f"transformers_{kind}"] = model(images).logits

scale = [1 / s for s in STD.flatten().tolist()]
offset = [-m * s for m, s in zip(MEAN.flatten().tolist(), scale, strict=True)]
plain = {"input_conv_filters": [64], "input_conv_kernel_sizes": [7]}
deep = {"input_conv_filters": [32, 32, 64], "input_conv_kernel_sizes": [3, 3, 3]}
for kind, block, stem in (
    ("basic", "basic_block", plain),
    ("bottleneck", "bottleneck_block", plain),
    ("vd", "bottleneck_block_vd", deep),
):
    backbone = keras_hub.models.ResNetBackbone(
        **stem, stackwise_num_filters=[64, 128, 256, 512], stackwise_num_blocks=[2, 2, 2, 2],
        stackwise_num_strides=[1, 2, 2, 2], block_type=block, image_shape=(None, None, 3),
    )  # fmt: skip
    converter = keras_hub.layers.ResNetImageConverter(
        image_size=(224, 224), scale=scale, offset=offset
    )
    preprocessor = keras_hub.models.ResNetImageClassifierPreprocessor(converter)
    task = keras_hub.models.ResNetImageClassifier(
        backbone, num_classes=5, preprocessor=preprocessor
    )
    rng = np.random.default_rng(0)
    for variable in backbone.variables:
        if variable.path.endswith(("moving_mean", "beta")):
            variable.assign(rng.normal(0, 0.1, variable.shape))
        elif variable.path.endswith(("moving_variance", "gamma")):
            variable.assign(rng.uniform(0.5, 1, variable.shape))
    task.save_to_preset(str(FOLDER / f"keras_hub_{kind}"))
    normalised = images.permute(0, 2, 3, 1)
    truth[f"keras_hub_{kind}"] = keras.ops.convert_to_tensor(task(normalised, training=False))

np.savez(FOLDER / "truth.npz", **{k: v.detach().cpu().numpy() for k, v in truth.items()})
shutil.rmtree(FOLDER / "venv", ignore_errors=True)
