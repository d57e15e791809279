# SPDX-License-Identifier: Apache-2.0
"""
Feed hostile bytes to what reads messages: ``python test/fuzz.py --minutes 10``.

The first byte of an input chooses the reader: a serialized Image, a raw one, a compressed one. An
input may be refused with an ImageError; anything else, more than a second of processor time or
more memory than the largest picture is worth is a fault, and the input is kept beside the corpus.
With atheris the run is guided by coverage, else inputs of the corpus are mutated at random.
"""

import argparse
import inspect
import json
import os
from pathlib import Path
import random
import resource
import struct
import sys
import tempfile
import time
import zlib

from dgtl_core import encodings, picture_header
from dgtl_core.encodings import decode, decode_compressed, ENCODINGS, ImageError
from dgtl_ros import cdr_image
from dgtl_ros.cdr_image import CdrImage, read_image
import numpy as np
from std_msgs.msg import Header

CORPUS = Path(__file__).resolve().parent / 'corpus'
MAX_PIXELS = 1 << 20  # of a picture here, so that too much memory shows
MEMORY = 512 << 20    # bytes on top of what the program has at its start
SECONDS = 1.0
FORMATS = ('', 'jpeg', 'bayer_rggb8; png compressed ', 'rgb8; jpeg compressed bgr8',
           'mono8; jpeg compressed ', 'bayer_gbrg16; jpeg compressed bayer_gbrg16')
NAMES = (*ENCODINGS, '8UC3', '16UC1', 'yuv9', '')


def one_input(data):
    """Read one input; return whether it held a picture."""
    try:
        image = _read(data)
    except ImageError as error:
        str(error).encode('utf-8')
        return False
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    assert image.shape[0] * image.shape[1] <= MAX_PIXELS
    int(image[-1, -1].sum())  # all of a view must be there
    return True


def _read(data):
    if not data:
        raise ImageError('nothing')
    kind, rest = data[0] % 3, data[1:]
    if kind == 0:
        return decode(read_image(rest), '', MAX_PIXELS)
    if kind == 1:
        if len(rest) < 15:
            raise ImageError('too short for the fields of a raw picture')
        height, width, step, big, number = struct.unpack_from('<IIIBH', rest)
        name = NAMES[number % len(NAMES)]
        return decode(CdrImage(Header(), height, width, name, big, step, memoryview(rest)[15:]),
                      '', MAX_PIXELS)
    name = FORMATS[rest[0] % len(FORMATS)] if rest else ''
    return decode_compressed(rest[1:], name, MAX_PIXELS)


def checked(data):
    """Read one input; raise where it costs too much."""
    took = []
    while not took or (took[-1] > SECONDS and len(took) < 3):  # the first may have been unlucky
        start = time.process_time()
        held = one_input(data)
        took.append(time.process_time() - start)
    assert min(took) < SECONDS, f'{len(data)} bytes took {min(took):.2f} s'
    return held


def mutated(rng, seeds):
    """Return an input of the corpus, changed here and there."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at:at + 1] = rng.randbytes(1)
            case 2:
                data[at:at + 4] = rng.choice((b'\xff' * 4, bytes(4), b'\0\0\xff\xff', b'\x7f'))
            case 3:
                del data[at:at + rng.choice((1, 4, 64))]
            case 4:
                other = rng.choice(seeds)
                start = rng.randrange(len(other))
                data[at:at] = other[start:start + rng.choice((2, 16, 256))]
            case 5:
                data[at:at] = data[max(at - 64, 0):at] * rng.choice((1, 3))
    return bytes(data[:1 << 16])


def repaired(data):
    """Return an input whose PNG, if it holds one, has right checksums: so decoders see it."""
    data = bytearray(data)
    at = data.find(b'\x89PNG\r\n\x1a\n') + 8
    while 8 <= at <= len(data) - 12:
        end = at + 8 + int.from_bytes(data[at:at + 4], 'big')
        if end + 4 > len(data):
            break
        data[end:end + 4] = zlib.crc32(data[at + 4:end]).to_bytes(4, 'big')
        at = end + 4
    return bytes(data)


def mutate(seeds, minutes, runs, seed):
    """Run without guidance; return the figures."""
    rng, start, count, pictures, slowest = random.Random(seed), time.monotonic(), 0, 0, 0.0
    while time.monotonic() - start < 60 * minutes and (not runs or count < runs):
        data = mutated(rng, seeds)
        data = repaired(data) if rng.random() < 0.5 else data
        before = time.process_time()
        try:
            pictures += checked(data)
        except BaseException:
            (CORPUS.parent / f'fault-{count}.bin').write_bytes(data)
            raise
        slowest = max(slowest, time.process_time() - before)
        count += 1
    return {'inputs': count, 'pictures': pictures, 'slowest_ms': round(slowest * 1e3, 1),
            'peak_memory_mib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
            'seconds': round(time.monotonic() - start, 1), 'seed': seed}


def main():
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument('--minutes', type=float, default=10.0)
    parser.add_argument('--runs', type=int, default=0, help='most inputs; 0: as many as fit')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--plain', action='store_true', help='without atheris')
    options = parser.parse_args()
    seeds = [path.read_bytes() for path in sorted(CORPUS.glob('*.bin'))]
    for data in seeds:
        checked(data)
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)
    try:
        if options.plain:
            raise ImportError
        import atheris
    except ImportError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders tell all that they find
        print(json.dumps(mutate(seeds, options.minutes, options.runs, options.seed)))
        return
    for module in (cdr_image, encodings, picture_header):
        for function in vars(module).values():
            if inspect.isfunction(function) and function.__module__ == module.__name__:
                atheris.instrument_func(function)

    def guided(data, most, seed):
        data = atheris.Mutate(data, most)
        return repaired(data) if seed % 2 else data

    atheris.Setup([
        sys.argv[0], tempfile.mkdtemp(prefix='fuzz-'), str(CORPUS), '-close_fd_mask=2',
        f'-max_total_time={round(60 * options.minutes)}', f'-seed={options.seed + 1}',
        '-max_len=65536', '-rss_limit_mb=0', '-print_final_stats=1', f'-runs={options.runs or -1}',
        f'-artifact_prefix={CORPUS.parent}/fault-'], checked, custom_mutator=guided)
    atheris.Fuzz()


if __name__ == '__main__':
    main()
