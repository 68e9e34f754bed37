"""PNG files that say they are larger than they are."""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, data):
    """A chunk with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def header(width, height):
    """The chunk that says the size, of 8 bits a colour."""
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def bomb(edge):
    """A square of this edge, with a million bytes of zeros for it."""
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return SIGNATURE + header(edge, edge) + pixels + chunk(b"IEND", b"")
