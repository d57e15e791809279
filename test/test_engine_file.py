# SPDX-License-Identifier: Apache-2.0
import json

from dgtl_core.engine.cache import file_sha256
from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.model_file import ModelError, onnx_batch, onnx_metadata
import pytest

pytest.importorskip('onnx')
from tiny_onnx import METADATA, write_tiny_onnx


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / 'x.engine'
    path.write_bytes(b'engine')
    info = EngineInfo(
        metadata=METADATA, module='tensorrt', version='10.3.0', gpu='Orin',
        compute_capability='8.7', precision='fp16', model_sha256='0', options={'max_batch': 2},
        engine_sha256=file_sha256(path))
    side_file(path).write_text(info.to_json())
    return path


def change(engine, **changes):
    path = side_file(engine)
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_what_is_written_is_read(engine):
    info = EngineInfo.beside(engine)
    assert info.metadata.to_json() == METADATA.to_json()
    assert (info.gpu, info.options, info.labels_equal) == ('Orin', {'max_batch': 2}, None)


@pytest.mark.parametrize('spoil, message', [
    (lambda e: side_file(e).unlink(), 'x.engine has no x.engine.json beside it'),
    (lambda e: side_file(e).write_text('{'), 'x.engine.json does not describe an engine'),
    (lambda e: side_file(e).write_bytes(b'\x85\xff'), 'x.engine.json does not describe an engine'),
    (lambda e: side_file(e).write_text('[]'), 'x.engine.json does not describe an engine'),
    (lambda e: side_file(e).write_text('{}'), "does not describe an engine .*'format'"),
    (lambda e: side_file(e).write_text(side_file(e).read_text().replace('"gpu"', '"cpu"')),
     'does not describe an engine .*cpu'),
    (lambda e: side_file(e).write_text(side_file(e).read_text().replace(': 1,', ': 7,', 1)),
     'another format than 1'),
    (lambda e: side_file(e).write_text(side_file(e).read_text().replace('"input_size"', '"s"')),
     'broken "dgtl" metadata'),
    (lambda e: change(e, version=10), 'does not describe an engine .*version of another type'),
    (lambda e: change(e, options=None), 'does not describe an engine .*options of another type'),
    (lambda e: (side_file(e).unlink(), side_file(e).mkdir()), 'x.engine.json cannot be read: Is'),
    (lambda e: e.write_bytes(b'engin'), 'x.engine is not the engine that x.engine.json describes'),
    (lambda e: e.write_bytes(b'enginE'), 'x.engine is not the engine that')])
def test_what_does_not_belong_together_is_refused(engine, spoil, message):
    spoil(engine)
    with pytest.raises(ModelError, match=message):
        EngineInfo.beside(engine)


@pytest.mark.parametrize('slow', [0, 3])
def test_metadata_come_out_of_an_onnx_file(tmp_path, slow):
    path = write_tiny_onnx(tmp_path / 'm.onnx', slow=slow)
    assert onnx_metadata(path).to_json() == METADATA.to_json()


@pytest.mark.parametrize('batch, found', [(1, 1), (4, 4), (300, 300), ('pictures', None)])
def test_the_batch_comes_out_of_an_onnx_file(tmp_path, batch, found):
    assert onnx_batch(write_tiny_onnx(tmp_path / 'm.onnx', batch=batch)) == found


def test_metadata_among_others(tmp_path):
    import onnx
    path = write_tiny_onnx(tmp_path / 'm.onnx')
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {
        'a': 'b' * 300, 'dgtl': METADATA.to_json().replace('tiny', 'tinié'), 'dgtl2': '{}'})
    model.model_version = 1 << 40
    onnx.save(model, path)
    assert onnx_metadata(path).name == 'tinié'


@pytest.mark.parametrize('content, message', [
    (b'', 'is empty'), (b'hello, this is no protobuf', 'not an ONNX file, or is cut short'),
    (b'\xff' * 40, 'not an ONNX file')])
def test_no_onnx_file(tmp_path, content, message):
    path = tmp_path / 'm.onnx'
    path.write_bytes(content)
    for read in (onnx_metadata, onnx_batch):
        with pytest.raises(ModelError, match=message):
            read(path)


def test_every_cut_of_an_onnx_file_is_noticed(tmp_path):
    path = write_tiny_onnx(tmp_path / 'm.onnx')
    whole = path.read_bytes()
    for size in range(1, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=r'cut short|has no "dgtl" metadata'):
            onnx_metadata(path)


def test_an_onnx_file_without_metadata(tmp_path):
    path = write_tiny_onnx(tmp_path / 'm.onnx', metadata=None)
    with pytest.raises(ModelError, match='has no "dgtl" metadata'):
        onnx_metadata(path)


def test_the_side_file_is_plain_json(engine):
    data = json.loads(side_file(engine).read_text())
    assert data['format'] == 1 and data['metadata']['classes'][0]['name'] == 'road'
