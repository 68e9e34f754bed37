"""Deterministic pure-NumPy weights for parity tests (no torch / mmpretrain needed).

value(key, shape): a pure function of the state_dict key and its shape.
  rng = numpy.random.default_rng(zlib.crc32(key.encode('utf-8')))
  *running_mean           0.1 * rng.standard_normal(shape)
  *running_var            rng.uniform(0.5, 1.5, shape)
  *num_batches_tracked    int64 0 (shape ())
  ndim 4 (conv, OIHW)     w = rng.standard_normal(shape); w -= w.mean(over I,kh,kw) per filter;
                          w *= sqrt(1.5 / (I*kh*kw))        (He fan_in * 0.866, zero-mean filters so
                          that the logits keep depending on the image and not only on the biases)
  ndim 2 (fc, [out,in])   0.01 * rng.standard_normal(shape)
  'fc.bias' suffix        0.01 * rng.standard_normal(shape)
  '*bn3.weight'           0.4 * rng.uniform(0.5, 1.5, shape)               (last BN of a Bottleneck)
  other 1-d '*.weight'    rng.uniform(0.5, 1.5, shape)                         (BN gamma)
  other 1-d '*.bias'      0.1 * rng.standard_normal(shape)                     (BN beta)
Everything is drawn in float64 and cast to float32 last.

Usage:  from make_state import make_state, make_input
        state = make_state('ref/resnet50_in1k.json')   # dict key -> ndarray
        x     = make_input('ref/resnet50_in1k.json')   # NCHW float32
"""

import json
import zlib

import numpy as np


def value(key, shape):
    shape = tuple(int(s) for s in shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    rng = np.random.default_rng(zlib.crc32(key.encode("utf-8")))
    if leaf == "running_mean":
        v = 0.1 * rng.standard_normal(shape)
    elif leaf == "running_var":
        v = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 4:
        v = rng.standard_normal(shape)
        v = v - v.mean(axis=(1, 2, 3), keepdims=True)
        v = v * np.sqrt(1.5 / (shape[1] * shape[2] * shape[3]))
    elif len(shape) == 2:
        v = 0.01 * rng.standard_normal(shape)
    elif key.endswith("fc.bias"):
        v = 0.01 * rng.standard_normal(shape)
    elif leaf == "weight" and len(shape) == 1:
        v = rng.uniform(0.5, 1.5, shape)
        if key.endswith("bn3.weight"):
            v = 0.4 * v
    elif leaf == "bias" and len(shape) == 1:
        v = 0.1 * rng.standard_normal(shape)
    else:
        raise KeyError(f"no rule for {key} {shape}")
    return v.astype(np.float32)


def _meta(meta):
    if isinstance(meta, (str, bytes)) or hasattr(meta, "__fspath__"):
        with open(meta) as f:
            return json.load(f)
    return meta


def make_state(meta):
    """meta: path to a JSON, that JSON's dict, or a plain list of (key, shape)."""
    meta = _meta(meta)
    pairs = meta["keys"] if isinstance(meta, dict) else meta
    return {k: value(k, s) for k, s in pairs}


def make_input(meta):
    meta = _meta(meta)
    return np.random.default_rng(0).standard_normal(tuple(meta["input_shape"])).astype(np.float32)
