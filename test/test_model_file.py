# SPDX-License-Identifier: Apache-2.0
"""What a model file says is read without ONNX, whatever bytes it holds, and soon."""

import contextlib
import json
import os
import struct
import subprocess
import sys
import time

from dgtl_core.files import file_sha256
from dgtl_core.model_file import (
    model_sha256,
    ModelError,
    ModelMetadata,
    onnx_batch,
    onnx_data,
    onnx_metadata,
)
from dgtl_core.runtime.contract import RunOptions
from dgtl_core.runtime.onnx import OnnxBackend
import pytest

pytest.importorskip('onnx')
pytest.importorskip('hypothesis')
from hypothesis import given, settings
from hypothesis import strategies as st
import onnx
from tiny_onnx import METADATA, write_tiny_onnx

MIB = 1 << 20
ONCE = settings(  # the same examples every time; more and others: HYPOTHESIS_MAX=5000
    max_examples=int(os.environ.get('HYPOTHESIS_MAX', '200')), deadline=None,
    derandomize='HYPOTHESIS_MAX' not in os.environ)


@pytest.mark.parametrize('slow', [0, 3])
def test_metadata_come_out_of_an_onnx_file(tmp_path, slow):
    path = write_tiny_onnx(tmp_path / 'm.onnx', slow=slow)
    assert onnx_metadata(path).to_json() == METADATA.to_json()


@pytest.mark.parametrize('batch, found', [(1, 1), (4, 4), (300, 300), ('pictures', None)])
def test_the_batch_comes_out_of_an_onnx_file(tmp_path, batch, found):
    assert onnx_batch(write_tiny_onnx(tmp_path / 'm.onnx', batch=batch)) == found


def test_metadata_among_others(tmp_path):
    path = write_tiny_onnx(tmp_path / 'm.onnx')
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {
        'a': 'b' * 300, 'dgtl': METADATA.to_json().replace('tiny', 'tinié'), 'dgtl2': '{}'})
    model.model_version = 1 << 40
    onnx.save(model, path)
    assert onnx_metadata(path).name == 'tinié'


def test_what_a_newer_file_says_besides_is_passed_over():
    data = json.loads(METADATA.to_json())
    data.update(future={'a': 1}, classes=[
        {**entry, 'instances': True, 'prompts': 3} for entry in data['classes']])
    assert ModelMetadata.from_json(json.dumps(data), 'm.onnx').to_json() == METADATA.to_json()


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


FILLED = {  # damaged files of many megabytes
    'zeros': bytes(64 * MIB),
    'ones': b'\xff' * (64 * MIB),
    'numbers': b'\x08\x00' * (16 * MIB),
    'empty messages': b'\x0a\x00' * (16 * MIB),
    'empty nodes of a graph': b'\x3a' + b'\x80\x80\x80\x10' + b'\x0a\x00' * (16 * MIB),
    'fixed numbers': b'\x0d\x00\x00\x00\x00' * (4 * MIB),
    'a text of ours without an end': b'\x72\xff\xff\xff\xff\x0f' + bytes(MIB),
    'locations': b'\x3a\x80\x80\x80\x08' + b'location' * (2 * MIB),
    'text': b'not a model ' * (4 * MIB),
}


@pytest.mark.parametrize('content', FILLED.values(), ids=FILLED)
def test_a_damaged_file_of_any_size_is_refused_soon(tmp_path, content):
    path = tmp_path / 'm.onnx'
    path.write_bytes(content)
    start = time.monotonic()
    for read in (onnx_metadata, onnx_batch):
        with pytest.raises(ModelError, match=r'm.onnx (is not an ONNX file|has no "dgtl" meta)'):
            read(path)
    try:
        onnx_data(path)
    except ModelError as error:
        assert 'is not an ONNX file' in str(error)
    assert time.monotonic() - start < 10


def test_graphs_inside_each_other_end(tmp_path):
    def field(number, content):
        size, length = len(content), b''
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + content

    graph = b'location'
    for _ in range(100):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, graph
    (tmp_path / 'm.onnx').write_bytes(field(7, graph))
    with pytest.raises(ModelError, match='graphs lie more than 32 deep'):
        onnx_data(tmp_path / 'm.onnx')


@pytest.mark.parametrize('change, message', [
    ({'input_size': [True, True]}, 'input_size'), ({'input_size': [32, 10**9]}, 'input_size'),
    ({'input_size': [32.0, 64]}, 'input_size'), ({'format': True}, 'metadata format True'),
    ({'precision': ['fp16']}, 'precision'), ({'classes': 5}, 'broken'),
    ({'name': '\\ud800'}, 'surrogates'), ({'classes': []}, 'broken')])
def test_impossible_metadata_are_refused(change, message):
    text = json.dumps({**json.loads(METADATA.to_json()), **change}).replace('\\\\', '\\')
    with pytest.raises(ModelError, match=message):
        ModelMetadata.from_json(text, 'm.onnx')


@pytest.mark.parametrize('text', [
    '[' * 100_000, '{"format": ' + '1' * 5000 + '}', '{"format": 1e999}', 'null', '"a"', '[1]',
    '{"format": NaN}', '{' * 100])
def test_damaged_metadata_are_refused(text):
    with pytest.raises(ModelError, match='m.onnx has .*metadata') as caught:
        ModelMetadata.from_json(text, 'm.onnx')
    assert len(str(caught.value)) < 600


def test_metadata_of_megabytes_are_not_read(tmp_path):
    path = write_tiny_onnx(tmp_path / 'm.onnx', metadata=' ' * (2 * MIB))
    with pytest.raises(ModelError, match='a text of 2097152 bytes'):
        onnx_metadata(path)


@pytest.fixture(scope='module')
def split_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp('split') / 'm.onnx'
    onnx.save(onnx.load(write_tiny_onnx(path, slow=1)), path, save_as_external_data=True,
              location='weights.bin', size_threshold=100)
    return path.read_bytes()


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    return tmp_path_factory.mktemp('hostile') / 'm.onnx'


@ONCE
@given(edits=st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=6)), max_size=8),
       end=st.integers(0, 1 << 20))
def test_a_model_that_is_damaged_anywhere_is_read_or_refused(split_bytes, hostile, edits, end):
    content = bytearray(split_bytes)
    for place, new in edits:
        at = place % len(content)
        content[at:at + len(new)] = new
    hostile.write_bytes(content[:1 + end % len(content)])
    for read in (onnx_metadata, onnx_batch, onnx_data):
        with contextlib.suppress(ModelError):
            read(hostile)


@ONCE
@given(content=st.binary(min_size=1, max_size=200))
def test_any_bytes_are_read_or_refused(hostile, content):
    hostile.write_bytes(content)
    for read in (onnx_metadata, onnx_batch, onnx_data):
        with contextlib.suppress(ModelError):
            read(hostile)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6)


@ONCE
@given(key=st.sampled_from(sorted(json.loads(METADATA.to_json()))), value=_JSON)
def test_any_value_in_metadata_is_read_or_refused(key, value):
    text = json.dumps({**json.loads(METADATA.to_json()), key: value})
    try:
        found = ModelMetadata.from_json(text, 'm.onnx')
    except ModelError:
        return
    assert min(found.input_size) > 0 and len(found.classes) < 255 and found.to_json()


@pytest.fixture
def split(tmp_path):
    """Return a model whose constants lie in a file beside it."""
    path = tmp_path / 'm.onnx'
    model = onnx.load(write_tiny_onnx(path, slow=1))
    onnx.save(model, path, save_as_external_data=True, location='weights.bin', size_threshold=100)
    assert onnx_data(path) == [tmp_path / 'weights.bin']
    return path


def test_the_hash_is_that_of_all_that_is_loaded(split):
    before, alone = model_sha256(split), file_sha256(split)
    backend = OnnxBackend(split, RunOptions(device='cpu'))
    assert backend.sha256 == before != alone
    weights = split.with_name('weights.bin')
    content = bytearray(weights.read_bytes())
    content[0] ^= 1
    weights.write_bytes(content)
    assert file_sha256(split) == alone and model_sha256(split) != before


def test_without_data_beside_it_the_hash_is_that_of_the_file(tiny_model):
    assert onnx_data(tiny_model) == [] and model_sha256(tiny_model) == file_sha256(tiny_model)


def test_missing_weights_are_named(split):
    split.with_name('weights.bin').unlink()
    for read in (model_sha256, lambda path: OnnxBackend(path, RunOptions(device='cpu'))):
        with pytest.raises(ModelError, match="weights in 'weights.bin', which is not beside it"):
            read(split)


@pytest.mark.parametrize('place', ['../weights.bin', '/etc/hostname', 'a/../../weights.bin', ''])
def test_weights_in_another_folder_are_refused_by_us_and_by_onnx_runtime(split, place):
    import onnxruntime
    model = onnx.load(split, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == 'location':
                entry.value = place
    (split.parent.parent / 'weights.bin').write_bytes(split.with_name('weights.bin').read_bytes())
    split.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match='outside its own folder, which is refused'):
        OnnxBackend(split, RunOptions(device='cpu'))
    if tuple(map(int, onnxruntime.__version__.split('.')[:2])) < (1, 20):
        pytest.skip('refused by us; ONNX Runtime before 1.20 reads what it is told to')
    with pytest.raises(Exception, match=r'(?i)external data|escape|directory|path'):
        onnxruntime.InferenceSession(str(split), providers=['CPUExecutionProvider'])


def test_tensors_of_attributes_and_inner_graphs_are_found(tmp_path):
    def outside(name):
        tensor = onnx.TensorProto(
            name=name, data_type=onnx.TensorProto.FLOAT, dims=[1],
            data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key='location', value=name)
        (tmp_path / name).write_bytes(struct.pack('f', 1))
        return tensor

    inner = onnx.helper.make_graph([], 'inner', [], [], [outside('a.bin')])
    nodes = [onnx.helper.make_node('If', ['c'], ['y'], then_branch=inner, else_branch=inner),
             onnx.helper.make_node('Constant', [], ['z'], value=outside('b.bin'))]
    function = onnx.helper.make_function(
        'own', 'F', [], ['x'], [onnx.helper.make_node('Constant', [], ['x'],
                                                      value=outside('c.bin'))], [])
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, 'g', [], []),
                                   functions=[function])
    (tmp_path / 'm.onnx').write_bytes(model.SerializeToString())
    assert [p.name for p in onnx_data(tmp_path / 'm.onnx')] == ['a.bin', 'b.bin', 'c.bin']


def run_at_home(home, model, **variables):
    script = (
        'import sys, numpy\n'
        'from dgtl_core.predictor import Predictor\n'
        'predict = Predictor.load(sys.argv[1], device="cpu")\n'
        'predict(numpy.zeros((32, 64, 3), numpy.uint8))\n'
        'import os; print(os.environ["ORT_DISABLE_TELEMETRY"])')
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(('XDG_', 'ORT_'))}
    done = subprocess.run(
        [sys.executable, '-c', script, str(model)], check=True, text=True, capture_output=True,
        env={**environment, 'HOME': str(home), **variables})
    return done.stdout.split()[-1]


def test_a_model_that_is_run_writes_nothing_at_home(tmp_path, tiny_model):
    home = tmp_path / 'home'
    home.mkdir()
    assert run_at_home(home, tiny_model) == '1'
    assert list(home.rglob('*')) == []
    assert run_at_home(home, tiny_model, ORT_DISABLE_TELEMETRY='0') == '0', "the user's choice"
