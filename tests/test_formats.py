"""Every format of image files is read as Pillow reads it, or refused by what it is."""

import io

import numpy as np
import pytest
from bombs import SIGNATURE, chunk, header
from image_files import (
    DEEP_GREY,
    IMAGE,
    KINDS,
    PIXELS,
    RNG,
    deep_png,
    encode,
    tree,
    with_orientation,
)
from PIL import Image, features

from resnet_keras import data
from resnet_keras.errors import InputError


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_pillow_reads_it(kind, tmp_path):
    path = tmp_path / "x.jpg"  # whatever its suffix says
    path.write_bytes(KINDS[kind])
    truth = Image.open(io.BytesIO(KINDS[kind]))
    truth = (truth.convert("RGBA") if truth.mode == "P" else truth).convert("RGB")
    assert np.array_equal(data.read_image(path), truth)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(kind, orientation, tmp_path):
    path = tmp_path / "x"
    options = {"lossless": True} if kind == "WEBP" else {}
    path.write_bytes(encode(IMAGE, kind, exif=with_orientation(orientation), **options))
    # EXIF 2.3, table 4: where the file's first row and first column belong.
    turned = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
        5: PIXELS.swapaxes(0, 1), 6: PIXELS[::-1].swapaxes(0, 1),
        7: PIXELS[::-1, ::-1].swapaxes(0, 1), 8: PIXELS[:, ::-1].swapaxes(0, 1),
    }[orientation]  # fmt: skip
    ours = data.read_image(path).numpy()
    assert ours.shape == turned.shape
    # A JPEG differs a little; any other orientation differs by dozens on average.
    assert np.abs(ours.astype(int) - turned).mean() < (4 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_sixteen_bits_become_eight(channels, tmp_path):
    deep = RNG.integers(0, 65536, (9, 7, channels))
    (tmp_path / "x.png").write_bytes(deep_png(deep))
    colours = deep[..., :1] if channels < 3 else deep[..., :3]
    expected = np.broadcast_to(np.rint(colours / 257), (9, 7, 3))
    assert np.array_equal(data.read_image(tmp_path / "x.png"), expected)


def test_a_tiff_of_sixteen_bits_becomes_one_of_eight(tmp_path):
    deep = RNG.integers(0, 65536, (9, 7))
    for order in ("<u2", ">u2"):
        (tmp_path / "x.tif").write_bytes(encode(Image.fromarray(deep.astype(order)), "TIFF"))
        expected = np.broadcast_to(np.rint(deep / 257)[..., None], (9, 7, 3))
        assert np.array_equal(data.read_image(tmp_path / "x.tif"), expected)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(encode(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), "TIFF of 32 bits"),
     (encode(Image.fromarray(np.ones((4, 4), np.int32)), "TIFF"), "TIFF of 32 bits"),
     (encode(IMAGE, "TIFF")[:200], "truncated"),
     (encode(DEEP_GREY, "TIFF")[:30], "truncated"),              # of a big-endian machine
     (encode(IMAGE, "JPEG2000")[:200], "damaged"),
     (encode(IMAGE, "JPEG2000", no_jp2=True)[:200], "damaged"),  # without the boxes of a JP2
     (b"\0\5\x16\7" + bytes(60), "macOS resource fork"),
     # ISO/IEC 23008-12 and AV1 Image File Format: brands of one image and of sequences.
     *((b"\0\0\0\x18ftyp" + brand + bytes(60),
        "HEIC, which this Pillow does not read: pip install pillow-heif")
       for brand in (b"heic", b"heix", b"mif1")),
     *((b"\0\0\0\x18ftyp" + brand + bytes(60), "AVIF, which this Pillow does not read")
       for brand in (b"avif", b"avis"))],
)  # fmt: skip
def test_what_is_no_readable_image_is_named_by_what_it_is(tmp_path, content, reason):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=f"not a readable image: {reason}. Received"):
        data.read_image(tmp_path / "x")


@pytest.mark.parametrize("size", [(178_956_971, 1), (1, 178_956_971)])
def test_too_many_pixels_are_refused_whatever_pillow_is_told(tmp_path, monkeypatch, size):
    """By default it refuses more than 178,956,970, of which no memory is taken here."""
    (tmp_path / "x").write_bytes(SIGNATURE + header(*size) + chunk(b"IDAT", b""))
    for limit in (Image.MAX_IMAGE_PIXELS, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match="image: more than 178 megapixels. Received"):
            data.read_image(tmp_path / "x")


def test_a_file_larger_than_any_image_is_not_read(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate(2**29 + 1)  # a hole
    with pytest.raises(InputError, match="not a readable image: larger than 512 MiB. Received"):
        data.read_image(tmp_path / "x")


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow was built without AVIF")
def test_avif_is_read_as_pillow_reads_it(tmp_path):
    (tmp_path / "x").write_bytes(encode(IMAGE, "AVIF"))
    assert np.array_equal(data.read_image(tmp_path / "x"), Image.open(tmp_path / "x"))


def test_only_plain_images_are_left_to_tensorflow(tmp_path):
    exotic = {"turned": encode(IMAGE, "JPEG", exif=with_orientation(3)), "webp": KINDS["webp"]}
    plain = {"jpeg": KINDS["jpeg"], "grey": KINDS["grey jpeg"], "png": KINDS["png"]}
    plain["upright"] = encode(IMAGE, "JPEG", exif=with_orientation(1))
    name = tree(tmp_path, **{"train/a": exotic, "train/b": plain, "test/a": plain})
    files = data.Source(name, "train").open().files
    assert files.plain.tolist() == [False] * 2 + [True] * 4
