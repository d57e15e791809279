# SPDX-License-Identifier: Apache-2.0
"""Label pictures: whatever way a number is stored in, it is read as it is, or refused."""

import struct
import zlib

from dgtl_core.data.labels import DataError, read_colors, read_ids
import numpy as np
from PIL import Image
import pytest

IDS = np.array([[0, 1, 2, 3, 7], [3, 2, 1, 0, 15]])
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}


def png(ids, bits, color):
    """Return a PNG as its specification says, for every depth: Pillow cannot write them all."""
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack(
            '>I', zlib.crc32(kind + data))

    rows = b''
    for row in np.repeat(ids, CHANNELS[color], axis=1):
        digits = ''.join(format(number, f'0{bits}b') for number in row)
        digits += '0' * (-len(digits) % 8)
        rows += b'\0' + bytes(int(digits[i:i + 8], 2) for i in range(0, len(digits), 8))
    head = struct.pack('>IIBBBBB', ids.shape[1], ids.shape[0], bits, color, 0, 0, 0)
    palette = chunk(b'PLTE', bytes(range(3 * 2 ** min(bits, 4)))) if color == PALETTE else b''
    return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + palette +
            chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))


@pytest.mark.parametrize('bits, color', [
    *((bits, GREY) for bits in (1, 2, 4, 8, 16)), *((bits, PALETTE) for bits in (1, 2, 4, 8)),
    *((bits, color) for bits in (8, 16) for color in (RGB, GREY_ALPHA, RGBA))])
def test_numbers_are_read_as_they_are_stored(tmp_path, bits, color):
    ids = IDS % 2 ** bits
    (tmp_path / 'a.png').write_bytes(png(ids, bits, color))
    assert read_ids(tmp_path / 'a.png').tolist() == ids.tolist()


def test_numbers_above_255_are_kept(tmp_path):
    (tmp_path / 'a.png').write_bytes(png(IDS * 3000, 16, RGB))
    assert read_ids(tmp_path / 'a.png').tolist() == (IDS * 3000).tolist()


def test_labels_in_a_jpeg_are_refused_whatever_the_name(tmp_path):
    Image.fromarray(IDS.astype(np.uint8)).save(tmp_path / 'a.png', 'JPEG')
    for read in (read_ids, lambda path: read_colors(path, [(0, 0, 0, 0)])):
        with pytest.raises(DataError, match='a.png is a JPEG.*as PNG'):
            read(tmp_path / 'a.png')
