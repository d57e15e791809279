# SPDX-License-Identifier: Apache-2.0
from pathlib import Path
import re

from dgtl_core.engine.options import BUILDS
from dgtl_core.processing import RESIZE_MODES
from dgtl_core.runtime.contract import BACKENDS, PRECISIONS
import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
from dgtl_ros.parameters import (  # noqa: E402
    declare,
    ParameterError,
    parameters_of,
    unknown_parameters,
    updated,
)
from dgtl_ros.points.settings import PointsSettings  # noqa: E402
from dgtl_ros.settings import Settings  # noqa: E402
from rclpy.context import Context  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parent.parent
CONFIG, NODE_PAGE = ROOT / 'config' / 'segment.yaml', ROOT / 'docs' / 'node.md'
POINTS_PAGE = ROOT / 'docs' / 'how-to' / 'points.md'


@pytest.fixture
def make_node(monkeypatch):
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    context, nodes = Context(), []
    rclpy.init(context=context, args=[])

    def make(**values):
        overrides = [Parameter(name.replace('__', '.'), value=v) for name, v in values.items()]
        nodes.append(Node('parameters', context=context, parameter_overrides=overrides))
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    rclpy.shutdown(context=context)


def changes(**values):
    return [Parameter(name.replace('__', '.'), value=value) for name, value in values.items()]


def test_defaults_and_overrides_are_read(make_node):
    settings = declare(make_node(max_rate=5.0, qos__image__depth=3, enabled=False), Settings)
    assert settings == Settings(max_rate=5.0, image_depth=3, enabled=False)


@pytest.mark.parametrize('given, names', [
    (None, ('',)), ([''], ('',)), (['front'], ('front',)),
    (['', 'front', '/rear/color'], ('front', '/rear/color'))])
def test_cameras(make_node, given, names):
    settings = declare(make_node(**({} if given is None else {'cameras': given})), Settings)
    assert settings.camera_names == names and type(settings.cameras) is tuple
    assert updated(settings, changes(cameras=['a', 'b']), False).camera_names == ('a', 'b')
    assert updated(settings, changes(cameras=list(settings.cameras)), True) == settings


def test_an_empty_list_is_that_of_the_default(make_node):
    """ROS reads [] in a file or on the command line as no value at all."""
    assert declare(make_node(cameras=None), Settings) == Settings()


def test_the_choices_are_those_of_the_library():
    entries = parameters_of(Settings)
    for name, allowed in (('backend', BACKENDS), ('engine_build', BUILDS),
                          ('resize_mode', RESIZE_MODES), ('precision', PRECISIONS)):
        assert set(entries[name].metadata['choices']) == set(allowed), name


def test_every_parameter_says_what_it_is_for(make_node):
    node = make_node()
    declare(node, Settings)
    for name, entry in parameters_of(Settings).items():
        descriptor = node.describe_parameter(name)
        assert len(descriptor.description) > 10, name
        if type(entry.default) in (int, float):
            ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
            assert len(ranges) == 1 and ranges[0].from_value < ranges[0].to_value, name
        for choice in entry.metadata['choices']:
            assert choice in descriptor.additional_constraints, name
        assert ('unconfigured' in descriptor.additional_constraints) != entry.metadata['dynamic']


@pytest.mark.parametrize('values, message', [
    ({'overlay_alpha': 1}, 'overlay_alpha must be a double in 0.0..1.0, such as 1.0, got 1$'),
    ({'overlay_alpha': 5}, 'overlay_alpha must be a double in 0.0..1.0, such as 0.5, got 5$'),
    ({'jpeg_quality': 70.0}, 'jpeg_quality must be an integer in 1..100, such as 70, got 70.0'),
    ({'ego_mask': ['a', 'b']}, "ego_mask must be a string, such as 'a b', got"),
    ({'overlay_alpha': 1.5}, 'overlay_alpha must be a double in 0.0..1.0'),
    ({'overlay_alpha': float('nan')}, 'overlay_alpha must be a double in 0.0..1.0'),
    ({'jpeg_quality': 0}, 'jpeg_quality must be an integer in 1..100'),
    ({'model_path': 5}, 'model_path must be a string'),
    ({'enabled': 'yes'}, 'enabled must be true or false'),
    ({'backend': 'cuda'}, r"backend must be one of \['auto', .*\], got 'cuda'"),
    ({'output_size': 'network', 'resize_mode': 'crop'}, 'use resize_mode stretch'),
    ({'input_width': 63}, r'input_width must be 0 or an integer in 64..4096, got 63'),
    ({'input_height': 4097}, 'input_height must be an integer in 0..4096'),
    ({'max_batch_size': 17}, 'max_batch_size must be an integer in 1..16'),
    ({'engine_build': 'later'}, r"engine_build must be one of \['background', 'blocking'"),
    ({'input_encoding': 'rgb9'}, r"input_encoding must be one of \['auto', 'bayer_bggr16'"),
    ({'cameras': 'front'}, r"cameras must be a list of strings, such as \['front'\], got 'front'"),
    ({'cameras': 'a, b'}, r"such as \['a', 'b'\], got 'a, b'"),
    ({'cameras': ['front', '1st']}, "cameras must be names of topics.*got '1st'"),
    ({'cameras': ['front', 'rear cam']}, "got 'rear cam'"),
    ({'cameras': ['front', 'rear', 'front']}, 'cameras names one twice'),
    ({'cameras': ['front', '/front']}, 'cameras names one twice'),
    ({'snapshot_dir': '~nouser/x'}, "snapshot_dir is '~nouser/x', and there is no such home"),
    ({'model_path': '~nouser/m.onnx'}, 'model_path is .* no such home'),
    ({'image_transport': 'compressed', 'raw_subscription': True}, 'raw_subscription is about raw'),
    ({'image_transport': 'compressed', 'input_encoding': 'bgr8'}, 'use image_transport raw'),
])
def test_wrong_values_at_the_start_say_what_is_allowed(make_node, values, message):
    with pytest.raises(ParameterError, match=message):
        declare(make_node(**values), Settings)


def test_changes_are_all_or_nothing():
    before = Settings()
    with pytest.raises(ParameterError, match=r'max_rate must be .* 0.0..240.0, got -1'):
        updated(before, changes(jpeg_quality=50, max_rate=-1.0), configured=True)
    assert before == Settings()
    after = updated(before, changes(jpeg_quality=50, max_rate=1.0), configured=True)
    assert after == Settings(jpeg_quality=50, max_rate=1.0)


def test_what_is_fixed_after_configuration():
    with pytest.raises(ParameterError, match='model_path is fixed once .* cleanup'):
        updated(Settings(), changes(model_path='x.onnx'), configured=True)
    assert updated(Settings(), changes(model_path='x.onnx'), False).model_path == 'x.onnx'
    assert updated(Settings(), changes(backend='auto'), True) == Settings()  # no change at all
    assert updated(Settings(), changes(use_sim_time=True), True) == Settings()  # rclpy's own


def test_every_dynamic_parameter_may_change_and_no_other():
    for name, entry in parameters_of(Settings).items():
        choices = [c for c in entry.metadata['choices'] if c != entry.default]
        other = {bool: not entry.default, str: choices[0] if choices else 'other',
                 int: entry.metadata['low'], float: entry.metadata['low'],
                 tuple: ['other']}[type(entry.default)]
        if other == entry.default:
            other = entry.metadata['high']
        change = [Parameter(name, value=other)]
        if entry.metadata['dynamic']:
            assert getattr(updated(Settings(), change, True), entry.name) == other
        else:
            with pytest.raises(ParameterError, match=f'{name} is fixed'):
                updated(Settings(), change, True)


def test_unknown_parameters_are_named_with_the_nearest_one(make_node):
    node = make_node()
    declare(node, Settings)
    lines = unknown_parameters(node, ['confidence_treshold', 'use_sim_time', 'max_rate', 'zzz',
                                      'qos_overrides./segmentation.publisher.depth'])
    assert lines == [
        'unknown parameter confidence_treshold has no effect; did you mean confidence_threshold?',
        'unknown parameter zzz has no effect']


def test_the_parameter_file_lists_every_parameter_with_its_default():
    data = yaml.safe_load(CONFIG.read_text(encoding='utf-8'))
    listed = flatten(data['/**']['ros__parameters'])
    defaults = {n: list(e.default) if type(e.default) is tuple else e.default
                for n, e in parameters_of(Settings).items()}
    assert listed == defaults
    wrong = [n for n, value in listed.items() if type(value) is not type(defaults[n])]
    assert not wrong, 'ROS tells 1 from 1.0'


def described(path):
    """Return what the parameter file (in the comment above) or the page says about each name."""
    found, comment = {}, []
    for line in path.read_text(encoding='utf-8').splitlines():
        name = re.match(r'(?:\| `| +)([a-z_.]+)(?:` \||: )', line)
        if name:
            found[name[1]] = ' '.join([*comment, line])
        comment = [*comment, line.strip(' #')] if line.lstrip().startswith('#') else []
    return found


@pytest.mark.parametrize('path, kind', [
    (CONFIG, Settings), (NODE_PAGE, Settings), (POINTS_PAGE, PointsSettings)],
    ids=lambda p: getattr(p, 'name', ''))
def test_what_people_read_has_every_parameter_with_its_range(path, kind):
    texts = described(path)
    for name, entry in parameters_of(kind).items():
        meta, text = entry.metadata, texts[name]
        assert ('[D]' in text) == meta['dynamic'], name
        if meta['low'] is not None:
            assert f'{meta["low"]}..{meta["high"]}' in text, f'{name}: {text}'
        if len(meta['choices']) < 8:  # the encodings are listed elsewhere
            assert not [c for c in meta['choices'] if c not in text], f'{name}: {text}'
        if path is not CONFIG:
            assert f'| {shown(entry.default)} |' in text, f'{name}: {text}'


def shown(default):
    value = list(default) if isinstance(default, tuple) else default
    return f'`{str(value).lower() if isinstance(value, bool) else repr(value)}`'


def flatten(tree, prefix=''):
    result = {}
    for key, value in tree.items():
        inner = flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else {
            prefix + key: value}
        result.update(inner)
    return result
