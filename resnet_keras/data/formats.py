"""Any image file that Pillow reads, as bytes that TensorFlow decodes to the right pixels."""

import functools
import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

# Twice Pillow's own limit: there it takes a file for a decompression bomb.
MOST_PIXELS = 178_956_970
MOST_BYTES = 2**29

# What is read; AVIF, HEIF and JPEG 2000 where this Pillow, or a plugin of it, can.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "MPO", "TIFF", "AVIF", "HEIF", "JPEG2000")

# How files of these formats begin.
_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF8", b"RIFF"),
    *(b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"),
)

# ISO 14496-12: the brand of a file stands behind `ftyp`, at its 9th byte.
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}

# Modes of Pillow with 16 bits a pixel; those of more have no white that everybody agrees on.
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_APPLE_DOUBLE = b"\x00\x05\x16\x07"
_ORIENTATION = 0x0112  # EXIF 2.3, table 4


class UnreadableError(Exception):
    """A file is not an image; the message is the reason, in a few words."""


def tidy(data: bytes) -> bytes:
    """Turn an image into a JPEG or PNG of 8 bits that TensorFlow reads as Pillow would.

    Most images are one already and are returned as they are. Others are rewritten without loss, in
    RGB: a rotation in the EXIF is applied; alpha is dropped, as Pillow's `convert("RGB")` drops it;
    the first frame of an animation, the first page of a TIFF is taken; 16 bits become 8 by `/ 257`,
    rounded (65535 is white), where Pillow would cut a grey image at 255.

    Args:
        data: contents of a file.

    Returns:
        `data` itself, or a PNG.

    Raises:
        UnreadableError: empty, truncated, not an image, too large, or of more than 16 bits.
    """
    image = _open(data)
    try:
        image.load()  # Pillow itself turns a TIFF
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # each of Pillow's decoders has exceptions of its own
        raise UnreadableError(_reason(data, error)) from None
    known = image.format in ("JPEG", "MPO", "PNG") and image.mode in ("L", "RGB")
    if known and orientation in range(2) and not _deep(data) and _tensorflow_decodes(data):
        return data
    if image.mode in ("I", "F") and not _deep(data):
        raise UnreadableError(f"{image.format} of 32 bits")
    rgb = Image.fromarray(_eight_bits(data)) if _deep(data) else _rgb(image)
    rgb.getexif()[_ORIENTATION] = orientation
    rgb = ImageOps.exif_transpose(rgb)
    written = io.BytesIO()
    Image.fromarray(np.asarray(rgb)).save(written, "PNG", compress_level=0)  # pixels alone
    return written.getvalue()


def _open(data: bytes) -> Image.Image:
    """Read the header."""
    if not data:
        raise UnreadableError("empty")
    if data.startswith(_APPLE_DOUBLE):
        raise UnreadableError("macOS resource fork")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.DecompressionBombError:
        raise UnreadableError(f"more than {MOST_PIXELS // 10**6} megapixels") from None
    except Exception as error:
        raise UnreadableError(_reason(data, error)) from None
    if image.width * image.height > MOST_PIXELS:
        raise UnreadableError(f"more than {MOST_PIXELS // 10**6} megapixels")
    return image


@functools.cache
def _formats() -> list[str]:
    """Those of `_FORMATS` that this Pillow reads."""
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _reason(data: bytes, error: Exception) -> str:
    """Say what is wrong with a file that Pillow does not read."""
    brand = _BRANDS.get(data[8:12]) if data[4:8] == b"ftyp" else None
    if brand is not None and isinstance(error, Image.UnidentifiedImageError):
        plugin = ": pip install pillow-heif" if brand == "HEIC" else ""
        return f"{brand}, which this Pillow does not read{plugin}"
    if brand is None and not data.startswith(_SIGNATURES):
        return "not an image"
    cut = isinstance(error, Image.UnidentifiedImageError | EOFError)
    return "truncated" if cut or "truncated" in str(error).lower() else "damaged"


def _rgb(image: Image.Image) -> Image.Image:
    """Convert as Pillow does, without its warning about palettes with transparency."""
    if image.mode in _SIXTEEN_BITS:
        image = Image.fromarray(_rounded(np.asarray(image)))
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def _deep(data: bytes) -> bool:
    """Tell whether a file is a PNG of 16 bits per channel: its 25th byte is the depth."""
    return data.startswith(_SIGNATURES[1]) and data[24] == 16


def _eight_bits(data: bytes) -> np.ndarray:
    """Decode a PNG of 16 bits; 65535 becomes 255."""
    try:
        deep = tf.io.decode_png(data, 3, tf.uint16).numpy()
    except tf.errors.InvalidArgumentError:  # Pillow does not look at some checksums
        raise UnreadableError("damaged") from None
    return _rounded(deep)


def _rounded(deep: np.ndarray) -> np.ndarray:
    """Of 16 bits, 8: 65535 becomes 255."""
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _tensorflow_decodes(data: bytes) -> bool:
    """Tell whether TensorFlow reads what Pillow has read; it lacks arithmetic coding, for one."""
    try:
        tf.io.decode_image(data, 3, expand_animations=False)
    except tf.errors.InvalidArgumentError:
        return False
    return True
