"""Images inside a page, and maps laid over them."""

import base64
import io

import numpy as np
from PIL import Image

# Longest edge on the page, in pixels; an image of less than half is enlarged without smoothing.
_EDGE = 160

# Five equidistant colours of matplotlib's `inferno`: dark, purple, red, orange, yellow.
_INFERNO = np.array(
    [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64
)


def image(pixels: np.ndarray, alternative: str) -> str:
    """Write an `img` element that contains the image.

    Args:
        pixels: uint8 `(height, width, 1 or 3)`.
        alternative: text of the `alt` attribute, as HTML.
    """
    image = _image(pixels)
    kind = ' class="pixels"' if max(image.size) < _EDGE / 2 else ""
    image.thumbnail((_EDGE, _EDGE))
    return f'<img{kind} alt="{alternative}" src="{_uri(image)}">'


def heat(pixels: np.ndarray, strength: np.ndarray, alternative: str) -> str:
    """Lay a map over the grey image, brighter where it is stronger; write an `img` element.

    Args:
        pixels: uint8 `(height, width, 1 or 3)`.
        strength: `(rows, columns)`, 0 or more; it is divided by its maximum.
        alternative: text of the `alt` attribute, as HTML.
    """
    scaled = strength / strength.max() if strength.max() > 0 else strength
    size = (_EDGE, _EDGE)
    grey = _image(pixels).convert("L")
    nearest = max(grey.size) < _EDGE / 2
    grey = grey.resize(size, Image.Resampling.NEAREST if nearest else Image.Resampling.LANCZOS)
    enlarged = Image.fromarray(scaled.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    smooth = np.asarray(enlarged, np.float64)
    stops = np.linspace(0, 1, len(_INFERNO))
    colours = np.stack([np.interp(smooth, stops, _INFERNO[:, c]) for c in range(3)], axis=-1)
    opacity = (0.2 + 0.6 * smooth)[..., None]
    mixed = (1 - opacity) * np.asarray(grey, np.float64)[..., None] + opacity * colours
    image = Image.fromarray(mixed.round().astype(np.uint8)).quantize(64)
    return f'<img alt="{alternative}" src="{_uri(image)}">'


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
