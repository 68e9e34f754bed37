"""Image files of many formats, for the tests of one's own images."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

RNG = np.random.default_rng(0)

# Blocks, which JPEG hardly changes; all corners differ.
PIXELS = np.kron(RNG.integers(0, 256, (3, 4, 3)), np.ones((16, 16, 1))).astype(np.uint8)

IMAGE = Image.fromarray(PIXELS)


def encode(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def with_orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


DEEP_GREY = Image.fromarray(RNG.integers(0, 65536, (9, 7)).astype(">u2"))


def deep_png(pixels):
    return tf.io.encode_png(pixels.astype(np.uint16)).numpy()


def deep_png_of_wrong_checksum():
    """Encode a PNG that Pillow reads, because it does not look at the checksum of the pixels."""
    whole = bytearray(deep_png(PIXELS.astype(int) * 257))
    whole[-13] ^= 1  # the last byte before IEND, which takes 12
    Image.open(io.BytesIO(whole)).load()
    return bytes(whole)


def palette_with_alpha():
    image = IMAGE.quantize(16)
    image.info["transparency"] = bytes(range(16))
    return image


KINDS = {
    "jpeg": encode(IMAGE, "JPEG", quality=95),
    "progressive": encode(IMAGE, "JPEG", quality=95, progressive=True),
    "no subsampling": encode(IMAGE, "JPEG", quality=95, subsampling=0),
    "grey jpeg": encode(IMAGE.convert("L"), "JPEG"),
    "cmyk jpeg": encode(IMAGE.convert("CMYK"), "JPEG"),
    "png": encode(IMAGE, "PNG"),
    "grey png": encode(IMAGE.convert("L"), "PNG"),
    "black and white png": encode(IMAGE.convert("1"), "PNG"),
    "palette png": encode(IMAGE.quantize(16), "PNG"),
    "palette png with alpha": encode(palette_with_alpha(), "PNG"),
    "rgba png": encode(Image.fromarray(np.dstack([PIXELS, PIXELS[..., :1]])), "PNG"),
    "grey png with alpha": encode(IMAGE.convert("LA"), "PNG"),
    "bmp": encode(IMAGE, "BMP"),
    "palette bmp": encode(IMAGE.quantize(16), "BMP"),
    "gif": encode(IMAGE, "GIF"),
    "animated gif": encode(IMAGE, "GIF", save_all=True, append_images=[ImageOps.invert(IMAGE)]),
    "webp": encode(IMAGE, "WEBP"),
    "webp with alpha": encode(IMAGE.convert("RGBA"), "WEBP", lossless=True),
    "tiff": encode(IMAGE, "TIFF"),
    "packed tiff": encode(IMAGE, "TIFF", compression="tiff_lzw"),
    "grey tiff": encode(IMAGE.convert("L"), "TIFF"),
    "cmyk tiff": encode(IMAGE.convert("CMYK"), "TIFF"),
    "two pages": encode(IMAGE, "TIFF", save_all=True, append_images=[ImageOps.invert(IMAGE)]),
    "jpeg 2000": encode(IMAGE, "JPEG2000"),
    "two images": encode(IMAGE, "MPO", save_all=True, append_images=[IMAGE.rotate(90)]),
}  # fmt: skip


def tree(root, **folders):
    """Write images: `tree(root, **{"train/cat": {"a.jpg": bytes}})`."""
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True)
        for name, content in files.items():
            (root / folder / name).write_bytes(content)
    return f"folder:{root}"
