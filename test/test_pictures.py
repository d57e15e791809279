# SPDX-License-Identifier: Apache-2.0
"""Picture files: every kind, every depth, and what is wrong with them is said before decoding."""

import logging
import os
import struct
import zlib

import cv2
from dgtl_core import pictures as module
from dgtl_core.picture_header import PictureError, read_header
from dgtl_core.pictures import (
    find_pictures,
    header_of,
    open_video,
    read_image,
    SUFFIXES,
    write_image,
)
import numpy as np
from PIL import Image
import pytest

H, W = 24, 40


@pytest.fixture(autouse=True)
def said_nothing_yet():
    module._turned.clear()


def scene():
    """Return (H, W, 3) RGB that no turn and no mirror leaves as it is."""
    image = np.zeros((H, W, 3), np.uint8)
    image[:8] = (90, 180, 250)
    image[:, :10, 0] = 240
    return image


def exif(orientation):
    return b'MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01' + struct.pack(
        '>HHI', orientation, 0, 0)


def jpeg(orientation=1):
    data = cv2.imencode('.jpg', scene()[..., ::-1])[1].tobytes()
    body = b'Exif\0\0' + exif(orientation)
    return data[:2] + b'\xff\xe1' + struct.pack('>H', len(body) + 2) + body + data[2:]


@pytest.mark.parametrize('suffix', [s for s in SUFFIXES if s != '.pgm'])
def test_every_kind_survives_the_disk_in_rgb(tmp_path, suffix):
    file = tmp_path / f'sub/x{suffix}'
    write_image(file, np.full((8, 9, 3), (200, 100, 20), np.uint8))
    image = read_image(file)
    assert np.abs(image.astype(int) - (200, 100, 20)).max() <= 6 and image.flags.c_contiguous
    assert header_of(file).size == image.shape[:2] == (8, 9)
    assert [p.name for p in (tmp_path / 'sub').iterdir()] == [f'x{suffix}']


def test_varieties_of_webp_bmp_and_tiff_tell_their_size(tmp_path):
    for name, options in (('lossless', {'lossless': True}), ('lossy', {'quality': 90}),
                          ('extended', {'exif': b'Exif\0\0' + exif(6)})):
        file = tmp_path / f'{name}.webp'
        Image.fromarray(scene()).save(file, **options)
        assert header_of(file).size == read_image(file).shape[:2] == (H, W)
    assert header_of(tmp_path / 'extended.webp').orientation == 6
    Image.fromarray(scene()).save(tmp_path / 'x.tif', tiffinfo={0x0112: 3})
    assert header_of(tmp_path / 'x.tif').orientation == 3


@pytest.mark.parametrize('orientation', [2, 3, 6])
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
def test_pixels_stay_as_they_are_stored_and_the_tag_is_named_once(
        tmp_path, caplog, suffix, orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    for name in 'ab':
        file = tmp_path / f'{name}{suffix}'
        Image.fromarray(scene()).save(file, exif=tags, quality=95)
        assert np.abs(read_image(file).astype(int) - scene()).mean() < 6
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(said) == 1 and '0x0112' in said[0] and f'orientation {orientation}' in said[0]
    assert f'a{suffix}' in said[0]


def test_depth_alpha_palette_and_grey_become_eight_bit_rgb(tmp_path):
    deep = scene().astype(np.uint16) * 256 + 77
    cv2.imwrite(str(tmp_path / 'deep.png'), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / 'deep.tif'), deep[..., ::-1])
    for file in ('deep.png', 'deep.tif'):
        assert np.abs(read_image(tmp_path / file).astype(int) - scene()).max() <= 1
    clear = np.dstack([scene(), np.zeros((H, W), np.uint8)])
    Image.fromarray(clear).save(tmp_path / 'clear.png')
    assert np.array_equal(read_image(tmp_path / 'clear.png'), scene())
    Image.fromarray(scene()).convert('P', palette=Image.Palette.ADAPTIVE).save(
        tmp_path / 'palette.png')
    assert np.abs(read_image(tmp_path / 'palette.png').astype(int) - scene()).max() < 3
    Image.fromarray(scene()[..., 0]).save(tmp_path / 'grey.png')
    assert np.array_equal(read_image(tmp_path / 'grey.png'), scene()[..., :1].repeat(3, 2))


@pytest.mark.parametrize('suffix', [s for s in SUFFIXES if s != '.pgm'])
@pytest.mark.parametrize('kept', [0.4, 0.9])
def test_picture_that_is_cut_short_is_an_error(tmp_path, suffix, kept):
    file = tmp_path / f'x{suffix}'
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    write_image(file, noise)
    data = file.read_bytes()
    file.write_bytes(data[:int(len(data) * kept)])
    with pytest.raises(PictureError, match=f'x{suffix} cannot be read'):
        read_image(file)


def test_stray_bytes_that_every_decoder_passes_over_are_no_fault(tmp_path):
    whole = jpeg()
    at = whole.index(b'\xff\xdb')
    file = tmp_path / 'x.jpg'
    for data in (whole[:at] + b'\x00\x17\xa5' + whole[at:], whole + b'\0' * 500, whole + whole,
                 whole[:at] + b'\xff\xff\xff' + whole[at:]):
        file.write_bytes(data)
        assert np.abs(read_image(file).astype(int) - scene()).mean() < 6
        assert header_of(file).size == (H, W)
    Image.fromarray(scene()).save(tmp_path / 'x.png')
    (tmp_path / 'x.png').write_bytes((tmp_path / 'x.png').read_bytes() + b'rest')
    assert np.array_equal(read_image(tmp_path / 'x.png'), scene())


def test_thumbnail_with_an_end_of_its_own_does_not_hide_a_cut(tmp_path):
    inner = jpeg()
    body = b'JFXX\0\x10' + inner
    outer = jpeg()
    data = outer[:2] + b'\xff\xe0' + struct.pack('>H', len(body) + 2) + body + outer[2:]
    file = tmp_path / 'x.jpg'
    file.write_bytes(data[:-40])
    with pytest.raises(PictureError, match='cut short'):
        read_image(file)


def png_of(width, height):
    def chunk(kind, body):
        return struct.pack('>I', len(body)) + kind + body + struct.pack(
            '>I', zlib.crc32(kind + body))
    return b'\x89PNG\r\n\x1a\n' + chunk(
        b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)) + chunk(
        b'IDAT', zlib.compress(b'\0' * 100)) + chunk(b'IEND', b'')


@pytest.mark.parametrize('size', [(20000, 20000), (13000, 13000), (0, 4), (1 << 31, 1 << 31)])
def test_sizes_are_bounded_before_decoding(tmp_path, size, monkeypatch):
    monkeypatch.setattr(cv2, 'imdecode', None)  # it is not called
    file = tmp_path / 'x.png'
    file.write_bytes(png_of(*size))
    for read in (read_image, header_of):
        with pytest.raises(PictureError, match=f'{size[0]}x{size[1]} is refused.*67108864'):
            read(file)
    assert read_header(png_of(100, 80), max_pixels=8000).size == (80, 100)
    with pytest.raises(PictureError, match='at most 7999 pixels'):
        read_header(png_of(100, 80), max_pixels=7999)


def test_length_of_a_chunk_is_compared_with_the_bytes_there_are():
    data = bytearray(png_of(40, 24))
    at = data.index(b'IDAT') - 4
    data[at:at + 4] = b'\xff\xff\xff\xf0'
    with pytest.raises(PictureError, match='cut short'):
        read_header(bytes(data))


def test_progressive_jpeg_of_many_scans_is_refused_by_its_work():
    data = jpeg()
    sof = data.index(b'\xff\xc0')
    data = data[:sof + 5] + struct.pack('>HH', 8184, 8184) + data[sof + 9:]
    scan = data.index(b'\xff\xda')
    end = data.rindex(b'\xff\xd9')
    assert read_header(data).scans == 1
    with pytest.raises(PictureError, match='with 150 scans would take seconds'):
        read_header(data[:scan] + 150 * data[scan:end] + b'\xff\xd9')


@pytest.mark.parametrize('content', [b'', b'hello', b'\xff\xd8', b'\xff\xd8\xff', b'BM', b'RIFF',
                                     b'II*\0', b'P6 ', b'\x89PNG\r\n\x1a\n', b'\0' * 64])
def test_what_is_no_picture_is_refused_by_its_name(tmp_path, content):
    (tmp_path / 'x.png').write_bytes(content)
    for read in (read_image, header_of):
        with pytest.raises(PictureError, match='x.png cannot be read: '):
            read(tmp_path / 'x.png')
        with pytest.raises(FileNotFoundError, match='no picture at'):
            read(tmp_path / 'none.png')
    with pytest.raises(ValueError, match='suffix'):
        write_image(tmp_path / 'x.docx', scene())
    assert not (tmp_path / 'x.docx').exists()


def test_folders_are_searched_for_pictures_without_case_and_without_hidden_files(tmp_path):
    for name in ('b.PNG', 'a.jpg', 'deep/c.Tiff', '.hidden.png', '._a.jpg', 'Thumbs.db',
                 '.DS_Store', '__MACOSX/a.jpg', '.cache/a.png', 'notes.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / 'folder.png').mkdir()
    found = find_pictures([tmp_path, tmp_path / 'notes.txt'])
    assert [str(p.relative_to(tmp_path)) for p in found] == [
        'a.jpg', 'b.PNG', 'deep/c.Tiff', 'notes.txt'], 'what is named itself is taken'
    with pytest.raises(PictureError, match='no pictures at .*\\.jpeg'):
        find_pictures([tmp_path / '__MACOSX' / 'none'])


def test_name_in_any_language_is_read(tmp_path):
    write_image(tmp_path / 'Straße 草.png', scene())
    assert np.array_equal(read_image(tmp_path / 'Straße 草.png'), scene())


def test_video_of_a_name_that_is_no_text_is_refused_and_ends_no_process(tmp_path):
    path = tmp_path / os.fsdecode(b'no \xff text.mp4')
    with pytest.raises(PictureError, match=r'no \\udcff text.mp4.*rename'):
        open_video(path)
    assert not open_video(tmp_path / 'none.mp4').isOpened()
