# SPDX-License-Identifier: Apache-2.0
"""A real parser and a real builder of TensorRT, which need no GPU."""

from dataclasses import replace
import functools
import importlib.util
import threading
from types import SimpleNamespace

from dgtl_core.config import BackboneConfig, preset
from dgtl_core.engine.builder import build, network_flags
from dgtl_core.engine.options import EngineOptions
from dgtl_core.engine.progress import BuildProgress
from dgtl_core.model_file import ModelError
from dgtl_core.predictor import default_model
import numpy as np
import pytest

pytest.importorskip('onnx')
from tiny_onnx import METADATA, write_tiny_onnx
from tiny_segmenter_onnx import write_tiny_segmenter

rtx = pytest.mark.skipif(
    importlib.util.find_spec('tensorrt_rtx') is None,
    reason='TensorRT-RTX is not installed (extra tensorrt-check)')


def built(path, **options):
    import tensorrt_rtx
    return build(tensorrt_rtx, path, EngineOptions(**options), BuildProgress())


@rtx
@pytest.mark.parametrize('dtype, precision, fused', [
    (np.float32, 'fp32', 0), (np.float16, 'fp16', 1)])
def test_a_segmenter_parses_and_builds_in_the_types_of_its_file(tmp_path, dtype, precision, fused):
    engine, report = built(write_tiny_segmenter(tmp_path / 'm.onnx', dtype))
    assert report.precision == precision and report.fused_attentions == fused
    assert report.grid_samples == {'LINEAR': 1} and report.softmax_layers == 2
    assert engine.nbytes > 100_000 and report.engine_mib == round(engine.nbytes / 2**20, 1)


@rtx
def test_the_embedded_model_parses_and_builds():
    engine, report = built(default_model())
    assert report.precision == 'fp32' and not report.grid_samples
    assert engine.nbytes > 1 << 20


@pytest.fixture(scope='module')
def segmenters():
    """The mini preset, and the large one with four blocks; random weights, the same graphs."""
    from dgtl_core.model.segmenter import build_segmenter
    large, light = preset('dgtl-dinov2-l'), preset('dgtl-rt-l')
    backbone = BackboneConfig(
        name='dinov2', embed_dim=1024, depth=4, num_heads=16, out_indices=(0, 1, 2, 3))
    head = replace(light.head, num_blocks=2)
    return {'mini': build_segmenter(preset('dgtl-mini')).eval(),
            'large': build_segmenter(replace(large, backbone=backbone)).eval(),
            'light': build_segmenter(replace(light, backbone=backbone, head=head)).eval()}


@pytest.fixture(scope='module')
def report_of(segmenters, tmp_path_factory):
    """Return a function that exports and builds a segmenter, once for the same arguments."""
    @functools.cache
    def report_of(which, precision, form='grid_sample'):
        folder = tmp_path_factory.mktemp(which)
        return exported_and_built(segmenters[which], folder, precision, form)
    return report_of


def exported_and_built(segmenter, folder, precision, form='grid_sample', size=(256, 512)):
    """Return the report of a segmenter's engine."""
    from dgtl_core.export.onnx import to_onnx
    from dgtl_core.folding.fold import fold
    from dgtl_core.folding.labels import LabelNetwork
    from dgtl_core.folding.precision import set_precision
    network = set_precision(LabelNetwork(fold(segmenter, size, form), size).eval(), precision)
    del segmenter
    model = to_onnx(network, replace(METADATA, name='m', input_size=size))
    path = folder / 'm.onnx'
    path.write_bytes(model.SerializeToString())
    del model, network
    return built(path)[1]


@rtx
@pytest.mark.parametrize('which, precision, form, attentions', [
    ('mini', 'fp16', 'gather', 8 + 2 * 3), ('mini', 'bf16', 'grid_sample', 8 + 2 * 3),
    ('large', 'fp32', 'grid_sample', 0), ('large', 'fp16', 'grid_sample', 4 + 2 * 9),
    ('large', 'bf16', 'grid_sample', 4 + 2 * 9), ('light', 'fp16', 'grid_sample', 4),
    ('light', 'bf16', 'grid_sample', 4)])
def test_an_exported_network_parses_and_builds(
        report_of, capsys, which, precision, form, attentions):
    report = report_of(which, precision, form)
    sampled = form == 'grid_sample' and which != 'light'
    assert report.precision.split('+')[0] == precision
    assert report.fused_attentions == attentions  # backbone, and cross and self of the decoder
    assert set(report.grid_samples) == ({'LINEAR'} if sampled else set())
    with capsys.disabled():
        print(f'\n{which} {precision} {form}: parsed in {report.parse_s} s, built in '
              f'{report.build_s} s, {report.engine_mib} MiB, {report.fused_attentions} attentions '
              'fused', end=' ')


@rtx
@pytest.mark.timeout(300)  # two exports and two builds
def test_the_light_head_has_fewer_layers_and_a_smaller_engine(report_of, capsys):
    light, full = report_of('light', 'fp16'), report_of('large', 'fp16')
    with capsys.disabled():
        print('\nfp16, four blocks of 1024:', ', '.join(
            f'{name} {report.layers} layers and {report.engine_mib} MiB'
            for name, report in (('light head', light), ('Mask2Former head', full))), end=' ')
    assert light.layers < 0.5 * full.layers and light.engine_mib < full.engine_mib
    assert not light.grid_samples and light.softmax_layers < full.softmax_layers


@rtx
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_large_model_is_smaller_and_simpler_with_the_light_head(tmp_path, capsys):
    from dgtl_core.model.segmenter import build_segmenter
    reports = []
    for name, attentions in (('dgtl-rt-l', 24), ('dgtl-dinov2-l', 24 + 2 * 9)):
        report = exported_and_built(
            build_segmenter(preset(name)).eval(), tmp_path, 'fp16', size=(512, 1024))
        assert report.fused_attentions == attentions
        assert bool(report.grid_samples) == (name == 'dgtl-dinov2-l')
        reports.append(report)
        with capsys.disabled():
            print(f'\n{name} fp16 512x1024: {report.layers} layers, {report.engine_mib} MiB, '
                  f'{report.fused_attentions} attentions fused, parsed in {report.parse_s} s, '
                  f'built in {report.build_s} s', end=' ')
    light, full = reports
    assert light.layers < full.layers and light.engine_mib < full.engine_mib


@rtx
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_exported_network_with_an_open_batch_parses_and_builds(tmp_path):
    from dgtl_core.export.onnx import to_onnx
    from dgtl_core.folding.fold import fold
    from dgtl_core.folding.labels import LabelNetwork
    from dgtl_core.folding.precision import set_precision
    from small_segmenter import small_config, small_segmenter, street
    config = small_config('dgtl-dinov2-l')
    size = config.input_size
    network = LabelNetwork(fold(small_segmenter(config, street(size)), size), size).eval()
    model = to_onnx(set_precision(network, 'fp16'), replace(METADATA, input_size=size),
                    dynamic_batch=True)
    path = tmp_path / 'm.onnx'
    path.write_bytes(model.SerializeToString())
    report = built(path, max_batch=4)[1]
    assert report.precision.split('+')[0] == 'fp16' and set(report.grid_samples) == {'LINEAR'}
    assert report.fused_attentions == 4 + 2 * 4  # backbone, and cross and self of the decoder


@rtx
def test_a_dynamic_batch_gets_a_profile(tmp_path):
    path = write_tiny_segmenter(tmp_path / 'm.onnx', batch='batch', sampling='')
    assert built(path, max_batch=4)[1].layers > 40


@rtx
def test_a_fixed_batch_stays(tmp_path):
    path = write_tiny_segmenter(tmp_path / 'm.onnx', sampling='')
    with pytest.raises(ModelError, match='max_batch 4 .* fixed batch of 1; export'):
        built(path, max_batch=4)


@rtx
def test_sampling_that_is_read_as_nearest_is_refused(tmp_path):
    path = write_tiny_segmenter(tmp_path / 'm.onnx', sampling='nearest')
    with pytest.raises(ModelError, match='1 GridSample layers as nearest .* "--sampling gather"'):
        built(path)


@rtx
def test_a_parser_error_names_the_node(tmp_path):
    with pytest.raises(ModelError, match='tensorrt_rtx .* cannot parse .*\n.*Gather.*UINT8'):
        built(write_tiny_onnx(tmp_path / 'm.onnx'))  # computes in uint8


@rtx
def test_a_file_that_is_no_model_is_refused(tmp_path):
    path = write_tiny_segmenter(tmp_path / 'm.onnx')
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ModelError, match='cannot parse'):
        built(path)


@rtx
@pytest.mark.parametrize('options', [{'hardware': 'ampere_plus'}, {'version_compatible': True}])
def test_what_rtx_cannot_do_is_said(tmp_path, options):
    with pytest.raises(ModelError, match='no hardware- or version-compatible engines'):
        built(write_tiny_segmenter(tmp_path / 'm.onnx'), **options)


@rtx
def test_a_cancelled_build_is_no_engine(tmp_path):
    import tensorrt_rtx
    progress = BuildProgress()
    progress.cancelled = True
    with pytest.raises(ModelError, match='cannot build .*[Cc]ancel'):
        build(tensorrt_rtx, write_tiny_segmenter(tmp_path / 'm.onnx'), EngineOptions(), progress)


@rtx
def test_the_gpu_is_activated_in_the_thread_that_builds(tmp_path):
    import tensorrt_rtx
    threads = []

    class Builder(tensorrt_rtx.Builder):
        def build_serialized_network(self, *arguments):
            threads.append(threading.get_ident())
            return super().build_serialized_network(*arguments)

    trt = SimpleNamespace(**{**vars(tensorrt_rtx), 'Builder': Builder})
    build(trt, write_tiny_segmenter(tmp_path / 'm.onnx'), EngineOptions(), BuildProgress(),
          activate=lambda: threads.append(threading.get_ident()))
    assert threads[0] == threads[1] != threading.get_ident()


@pytest.mark.parametrize('members, flags', [
    ({'EXPLICIT_BATCH': 0, 'STRONGLY_TYPED': 1}, 3), ({'STRONGLY_TYPED': 0}, 1)])
def test_flags_are_found_by_name(members, flags):
    trt = SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace(**members))
    assert network_flags(trt) == flags


def test_times_are_kept_for_the_next_build(tmp_path):
    from dgtl_core.engine.builder import _load_timing_cache

    class Config:
        def __init__(self, taken):
            self.taken, self.given = taken, []

        def create_timing_cache(self, blob):
            self.given.append(blob)
            return blob

        def set_timing_cache(self, cache, ignore_mismatch):
            assert ignore_mismatch is False
            return self.taken

    known = tmp_path / 'times'
    config = Config(True)
    _load_timing_cache(config, known)
    known.write_bytes(b'times')
    _load_timing_cache(config, known)
    other = Config(False)
    _load_timing_cache(other, known)
    assert config.given == [b'', b'times'] and other.given == [b'times', b'']


@rtx
def test_times_that_cannot_be_kept_cost_no_engine(tmp_path, caplog):
    import tensorrt_rtx
    trt = SimpleNamespace(**{**vars(tensorrt_rtx), '__name__': 'tensorrt'})
    engine, _ = build(trt, write_tiny_segmenter(tmp_path / 'm.onnx'), EngineOptions(),
                      BuildProgress(), tmp_path / 'missing' / 'times')
    assert engine.nbytes > 1000 and 'the timing cache cannot be written' in caplog.text
