"""Feeds damaged `.pth` files to the reader: `pth_fuzzer.py FILES SECONDS SEED`, in a new folder.

Everything is drawn from the seed. Ends at the first file that is neither read nor refused in one
line, or that starts, opens, imports by name or connects to anything; that file is left as
`found.pth`. Prints one line of JSON: how many files were read, how many refused, and memory.
"""

import json
import os
import random
import resource
import sys
import time
import zipfile
from pathlib import Path

import numpy as np

os.environ["KERAS_BACKEND"] = "numpy"  # nothing is computed
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

# ruff: noqa: E402
from pth_writer import Call, Global, Persistent, Raw, View, pickled, write_legacy, write_zip

from resnet_keras.errors import InputError
from resnet_keras.weights.formats import read

# What a reader has no business with, as Python's audit events name it.
FORBIDDEN = {
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"),
    *("os.remove", "os.rename", "os.mkdir", "os.putenv", "shutil.rmtree", "subprocess.Popen"),
    *("exec", "compile", "code.__new__", "marshal.loads", "pickle.find_class", "ctypes.dlopen"),
    *("socket.connect", "socket.getaddrinfo", "urllib.Request", "webbrowser.open"),
}
LOADING = {"exec", "marshal.loads"}
ADDRESS_SPACE = 2**30  # more than the process has when all is loaded

# Opcodes and numbers that damage seldom makes by chance.
CHUNKS = [
    *(
        bytes([code])
        for code in b"(.0123BCDEFGIJKLMNPQRSTUVXYZ]abcdeghijlopqrstu})\x80\x81\x93\x94"
    ),
    *(n.to_bytes(4, "little") for n in (0, 1, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)),
    *(n.to_bytes(8, "little") for n in (2**31, 2**40, 2**62, 2**63, 2**64 - 1)),
    *(b"cos\nsystem\n", b"X\x0a\0\0\0touch MARK\x85R", b"cbuiltins\neval\n", b"h\0", b"q\0"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", b"cbuiltins\nset\n"),
    *(b"\x8a\x09" + b"\xff" * 9, b"PK\1\2", b"PK\3\4", b"PK\5\6"),
]


def seeds(folder: Path) -> list[bytes]:
    """Real files: both formats, all types, windows, objects beside the state dict."""
    rng = np.random.default_rng(0)
    names = ("conv1.weight", "bn1.weight", "bn1.running_var", "layer1.0.conv1.weight", "fc.weight")
    state = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in names}
    state |= {
        str(t): np.arange(6).astype(t) for t in ("float64", "float16", "int64", "uint8", "bool")
    }
    storage = np.arange(24, dtype=np.float32)
    state |= {
        "window": View(storage, 7, (2, 3), (6, 1)),
        "turned": View(storage, 0, (6, 4), (1, 6)),
    }
    latin = Call(Global("_codecs", "encode"), ("\0" * 8, "latin1"))
    meta = {"time": Call(Global("datetime", "datetime"), (latin,)), "epoch": 3, "lr": 0.1,
            "seen": Call(Global("builtins", "set"), ([1, 2],))}  # fmt: skip
    root = {"meta": meta, "state_dict": state}
    found = []
    for write, kind in ((write_zip, {}), (write_zip, {"byteorder": "big"}), (write_legacy, {})):
        write(folder / "seed.pth", root, **kind)
        found.append((folder / "seed.pth").read_bytes())
    found.append(pickled({"w": Call(Global("os", "system"), ("touch MARK",))}))
    found.append(pickled(Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))))
    found.append(pickled({"x": Raw(b"\x8d" + b"\xff" * 8)}))
    return found


def damaged(data: bytes, others: list[bytes], draw: random.Random) -> bytes:
    """A few changes, each of one kind, at one place."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5, 9))):
        at = draw.randrange(len(changed) + 1)
        size = draw.choice((1, 1, 2, 4, 8, 30, 200))
        match draw.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << draw.randrange(8)
            case 1 if at < len(changed):
                changed[at] = draw.randrange(256)
            case 2:
                changed[at : at + draw.choice((0, size))] = draw.choice(CHUNKS)
            case 3:
                del changed[at : at + size]
            case 4:
                changed[at:at] = changed[at : at + size]
            case 5:
                other = draw.choice(others)
                start = draw.randrange(len(other))
                changed[at : at + draw.choice((0, size))] = other[start : start + size]
            case 6:
                del changed[at:]
    return bytes(changed)


def repacked(data: bytes, others: list[bytes], draw: random.Random, path: Path) -> None:
    """A zip archive that is whole; the program in it is not."""
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in parts if name.endswith("data.pkl"))
    parts[program] = damaged(parts[program], others, draw)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def outcome(path: Path) -> str:
    """What the reader made of a file."""
    try:
        arrays = read(path).arrays
    except InputError as error:
        line = str(error)
        assert "\n" not in line and "Received: " in line and len(line) < 2000, line[:3000]
        return "refused"
    for array in arrays.values():
        array.sum(dtype=np.float64)  # every value is inside the file
    return "read"


def main() -> None:
    """Draw this number of files, or until the time is over."""
    files, seconds, seed = map(int, sys.argv[1:])
    folder, armed = Path.cwd(), False

    def watch(event: str, arguments: tuple) -> None:
        if not armed:
            return
        writes = event == "open" and set(str(arguments[1] or "")) & set("wax+")
        # The standard library loads some of its modules when they are first needed.
        own = event in LOADING and "importlib" in sys._getframe(1).f_code.co_filename
        if writes or (event in FORBIDDEN and not own):
            os.write(2, f"{event} {arguments}\n".encode()[:500])
            os._exit(77)

    everything = seeds(folder)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    sys.addaudithook(watch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    draw, counts, path = random.Random(seed), {"read": 0, "refused": 0}, folder / "found.pth"
    np.seterr(all="ignore")
    end = time.monotonic() + seconds
    while sum(counts.values()) < files and time.monotonic() < end:
        data = draw.choice(everything)
        if data.startswith(b"PK") and draw.random() < 0.6:
            repacked(data, everything, draw, path)
        else:
            path.write_bytes(damaged(data, everything, draw))
        armed = True
        counts[outcome(path)] += 1
        armed = False
    path.unlink()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    print(json.dumps(counts | {"grown_mib": grown, "left": sorted(os.listdir(folder))}))


if __name__ == "__main__":
    main()
