"""What happens to files: events as they come, and full or read-only folders."""

import contextlib
import ctypes
import os
import select
import struct
import subprocess
import time

_LIBC = ctypes.CDLL(None, use_errno=True)
# From <sys/inotify.h>.
_MODIFY, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 2, 8, 0x40, 0x80, 0x100, 0x200
_ALL = _MODIFY | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_FOLDER = 0x40000000


class Events:
    """Counts what happens to the files in a folder and its subfolders, new ones too."""

    def __init__(self, folder):
        self.file = os.fdopen(_LIBC.inotify_init1(os.O_NONBLOCK), "rb", buffering=0)
        self.folders, self.count = {}, 0
        self._watch(folder)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def _watch(self, folder):
        number = _LIBC.inotify_add_watch(self.file.fileno(), os.fsencode(folder), _ALL)
        if number >= 0:  # else it is gone already
            self.folders[number] = folder
            with contextlib.suppress(FileNotFoundError):
                for entry in os.scandir(folder):
                    if entry.is_dir(follow_symlinks=False):
                        self._watch(folder / entry.name)

    def wait(self, count, seconds):
        """Wait for `count` events, at most for some seconds; tell whether they were seen."""
        end = time.monotonic() + seconds
        while self.count < count and (left := end - time.monotonic()) > 0:
            if not select.select([self.file], [], [], left)[0]:
                break
            self._read()
        return self.count >= count

    def _read(self):
        data = self.file.read(65536) or b""
        while data:
            number, mask, _, size = struct.unpack_from("iIII", data)
            name = data[16 : 16 + size].rstrip(b"\0").decode()
            data = data[16 + size :]
            self.count += 1
            if mask & _FOLDER and mask & (_CREATE | _MOVED_TO) and number in self.folders:
                self._watch(self.folders[number] / name)


def mounted(folder, *options):
    """Mount a tmpfs; tell whether this machine lets us."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)], capture_output=True
    )
    return done.returncode == 0


@contextlib.contextmanager
def small_disk(folder, size):
    """Give a folder a file system of `size` bytes; False where none can be mounted."""
    folder.mkdir(exist_ok=True)
    there = mounted(folder, "-o", f"size={size}")
    try:
        yield there
    finally:
        if there:
            subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder):
    """A folder that cannot be written, not even by root; False where that cannot be done."""
    bound = ["mount", "--bind", str(folder), str(folder)]
    there = subprocess.run(bound, capture_output=True).returncode == 0
    try:
        if there:
            subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield there
    finally:
        if there:
            subprocess.run(["umount", "-l", str(folder)], check=True)
