# SPDX-License-Identifier: Apache-2.0
import json

from dgtl_core.engine.info import EngineInfo, side_file
from dgtl_core.files import file_sha256
from dgtl_core.model_file import ModelError
import pytest

pytest.importorskip('onnx')
from tiny_onnx import METADATA


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
    (lambda e: side_file(e).write_text('{"format": ' + '1' * 5000 + '}'),
     'does not describe an engine'),
    (lambda e: side_file(e).write_text('[' * 50_000), 'does not describe an engine'),
    (lambda e: side_file(e).write_text(' ' * (1 << 21)), 'is longer than 1048576 bytes'),
    (lambda e: change(e, options=None), 'does not describe an engine .*options of another type'),
    (lambda e: (side_file(e).unlink(), side_file(e).mkdir()), 'x.engine.json cannot be read: Is'),
    (lambda e: e.write_bytes(b'engin'), 'x.engine is not the engine that x.engine.json describes'),
    (lambda e: e.write_bytes(b'enginE'), 'x.engine is not the engine that')])
def test_what_does_not_belong_together_is_refused(engine, spoil, message):
    spoil(engine)
    with pytest.raises(ModelError, match=message):
        EngineInfo.beside(engine)


def test_the_side_file_is_plain_json(engine):
    data = json.loads(side_file(engine).read_text())
    assert data['format'] == 1 and data['metadata']['classes'][0]['name'] == 'road'
