# SPDX-License-Identifier: Apache-2.0
"""
Who may import whom.

The static rules read the imports of the whole tree, also the ones inside functions; the live
ones ask a fresh interpreter what it has loaded.
"""

import ast
from collections.abc import Iterator
import os
from pathlib import Path
import subprocess
import sys
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
OWN = ('dgtl_core', 'dgtl_ros', 'training')
ROS = {
    'ament_index_python', 'builtin_interfaces', 'cv_bridge', 'diagnostic_msgs', 'launch',
    'launch_ros', 'lifecycle_msgs', 'rcl_interfaces', 'rclpy', 'rosgraph_msgs', 'sensor_msgs',
    'std_msgs', 'std_srvs', 'tf2_ros', 'vision_msgs'}
TENSORRT = {'cuda', 'tensorrt', 'tensorrt_rtx'}
ENGINES = TENSORRT | {'onnxruntime', 'torch'}
LEARNING = {'matplotlib', 'open_clip', 'scipy', 'timm', 'torch', 'torchvision', 'transformers'}


class Import(NamedTuple):
    """One import statement, or one name of it."""

    module: str  # absolute
    eager: bool  # runs when the importing module is imported
    line: int


def modules(root: Path, *packages: str) -> dict[str, Path]:
    """Return the modules below the packages by their dotted names."""
    found = {}
    for package in packages:
        for path in sorted((root / package).rglob('*.py')):
            parts = path.relative_to(root).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> list[Import]:
    """Return what the module imports; submodules of ours by their full names."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]

    def visit(node: ast.AST, eager: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, eager, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split('.')[:len(package.split('.')) - node.level + 1]
            module = '.'.join([*(above if node.level else []), *filter(None, [node.module])])
            for alias in node.names:
                full = f'{module}.{alias.name}'
                yield Import(full if full in known else module, eager, node.lineno)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ('import_module', '__import__')):
            if node.args and isinstance(node.args[0], ast.Constant):
                yield Import(node.args[0].value, eager, node.lineno)
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            branches = [(child, False) for child in node.body]
            branches += [(child, eager) for child in node.orelse]
        else:
            lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            branches = [(child, eager and not lazy) for child in ast.iter_child_nodes(node)]
        for child, runs in branches:
            yield from visit(child, runs)

    return list(visit(ast.parse(path.read_text(encoding='utf-8')), True))


class Tree:
    """The imports of all our modules."""

    def __init__(self, root: Path) -> None:
        self.paths = modules(root, *OWN)
        self.imports = {n: imports(n, p, self.paths) for n, p in self.paths.items()}

    def below(self, *packages: str) -> list[str]:
        return [n for n in self.paths if n.startswith(tuple(f'{p}.' for p in packages))
                or n in packages]

    def forbidden(self, names: list[str], *targets: str) -> list[str]:
        """Return the places where one of the modules imports a target or something below it."""
        return [f'{name}:{imported.line} imports {imported.module}'
                for name in names for imported in self.imports[name]
                if any(imported.module == t or imported.module.startswith(f'{t}.')
                       for t in targets)]

    def loads(self, name: str) -> set[str]:
        """Return the foreign top-level packages, and our modules, that importing it loads."""
        loaded: set[str] = set()
        todo = [name]
        while todo:
            module = todo.pop()
            parents = ['.'.join(module.split('.')[:i]) for i in range(1, module.count('.') + 1)]
            for part in [*parents, module]:
                if part in self.paths and part not in loaded:
                    loaded.add(part)
                    todo += [i.module for i in self.imports[part] if i.eager]
            if module.split('.')[0] not in OWN:
                loaded.add(module.split('.')[0])
        return loaded

    def circles(self) -> list[list[str]]:
        """Return the groups of our modules that import each other, by whatever way round."""
        reach = {name: {i.module for i in found} & self.paths.keys() - {name}
                 for name, found in self.imports.items()}
        for middle in reach:  # Warshall: what is reached through one module after the other
            for name in reach:
                if middle in reach[name]:
                    reach[name] |= reach[middle]
        groups = {frozenset(m for m in reach[name] if name in reach[m])
                  for name in reach if name in reach[name]}
        return sorted(map(sorted, groups))

    def foreign(self, name: str) -> set[str]:
        """Return the packages outside of the standard library and of ours that it loads."""
        return {m for m in self.loads(name)
                if m.split('.')[0] not in OWN and m not in sys.stdlib_module_names}


@pytest.fixture(scope='module')
def tree():
    return Tree(ROOT)


def test_the_reader_sees_every_kind_of_import(tmp_path):
    for package in OWN:
        (tmp_path / package).mkdir()
        (tmp_path / package / '__init__.py').touch()
    (tmp_path / 'dgtl_core' / 'plain.py').write_text('import numpy.linalg\n')
    (tmp_path / 'dgtl_core' / 'classes.py').write_text(
        'from typing import TYPE_CHECKING\n'
        'if TYPE_CHECKING:\n    import timm\nelse:\n    import cv2\n'
        'from . import plain\n'
        'try:\n    from torch import nn\nexcept ImportError:\n    nn = None\n'
        'def f():\n    import rclpy\n'
        'import importlib\nort = importlib.import_module("onnxruntime")\n'
        'class C:\n    from .plain import linalg\n')
    tree = Tree(tmp_path)
    assert tree.foreign('dgtl_core.classes') == {'cv2', 'numpy', 'onnxruntime', 'torch'}
    assert tree.forbidden(['dgtl_core.classes'], 'rclpy', 'timm') == [
        'dgtl_core.classes:3 imports timm', 'dgtl_core.classes:12 imports rclpy']
    assert tree.forbidden(tree.below('dgtl_core'), 'dgtl_core.plain') == [
        'dgtl_core.classes:6 imports dgtl_core.plain',
        'dgtl_core.classes:16 imports dgtl_core.plain']


def test_circles_are_seen(tmp_path):
    for package in OWN:
        (tmp_path / package).mkdir()
        (tmp_path / package / '__init__.py').touch()
    core = tmp_path / 'dgtl_core'
    (core / 'a.py').write_text('from dgtl_core import b\n')
    (core / 'b.py').write_text('def f():\n    from dgtl_core.c import x\n')
    (core / 'c.py').write_text('import dgtl_core.a\n')
    (core / 'd.py').write_text('import dgtl_core.a\nimport dgtl_core.e\n')
    (core / 'e.py').write_text('import importlib\nimportlib.import_module("dgtl_core.d")\n')
    assert Tree(tmp_path).circles() == [
        ['dgtl_core.a', 'dgtl_core.b', 'dgtl_core.c'], ['dgtl_core.d', 'dgtl_core.e']]


def test_no_two_modules_import_each_other(tree):
    assert not tree.circles()


def test_core_knows_neither_ros_nor_the_programs(tree):
    assert not tree.forbidden(tree.below('dgtl_core'), *ROS, 'dgtl_ros', 'training')


def test_training_knows_no_ros(tree):
    assert not tree.forbidden(tree.below('training'), *ROS, 'dgtl_ros')


def test_ros_uses_only_the_surface_of_core(tree):
    surface = {f'dgtl_core.{module}' for module in (
        'classes', 'domain', 'encodings', 'groups', 'picture_header', 'pictures', 'points',
        'predictor', 'processing', 'strict', 'visualize')}
    beyond = {
        'dgtl_ros.segment_node': {'dgtl_core.runtime.board'},
        'dgtl_ros.snapshot': {'dgtl_core.files'},
        # test material: the player plays it, the demo scores it
        'dgtl_ros.show.drawing': {'dgtl_core.streetworld', 'dgtl_core.engine.child'},
        'dgtl_ros.show.camera_player': {'dgtl_core.recorded.ahead'},
        'dgtl_ros.show.children': {'dgtl_core.engine.child'},
        'dgtl_ros.show.recorder': {'dgtl_core.metrics'},
        'dgtl_ros.show.results': {'dgtl_core.web_video'},
        'dgtl_ros.show.soak': {'dgtl_core.engine.child'},
        'dgtl_ros.show.view': {'dgtl_core.cli.view', 'dgtl_core.view.feed'},
        'dgtl_ros.show.view_benchmark': {'dgtl_core.cli.view'},
    }
    wrong = [f'{name}:{i.line} imports {i.module}'
             for name in tree.below('dgtl_ros') for i in tree.imports[name]
             if i.module.startswith('dgtl_core')
             and i.module not in surface | beyond.get(name, set())]
    assert not wrong
    assert not tree.forbidden(tree.below('dgtl_ros'), *ENGINES, *LEARNING, 'training')


@pytest.mark.parametrize('module, allowed', [
    ('dgtl_core.classes', set()),
    ('dgtl_core.config', set()),
    ('dgtl_core.strict', set()),
    ('dgtl_core.processing', {'numpy', 'cv2'}),
    ('dgtl_core.encodings', {'numpy', 'cv2'}),
    ('dgtl_core.groups', {'numpy', 'cv2'}),
    ('dgtl_core.recorded.sources', {'numpy', 'cv2'}),
    ('dgtl_core.recorded.run', {'numpy', 'cv2'}),
    ('dgtl_core.metrics', {'numpy', 'cv2'}),
    ('dgtl_core.visualize', {'numpy', 'cv2'}),
    ('dgtl_core.picture_header', set()),
    ('dgtl_core.pictures', {'numpy', 'cv2'}),
    ('dgtl_core.predictor', {'numpy', 'cv2'}),
    ('dgtl_core.runtime.backend', {'numpy', 'cv2'}),
    ('dgtl_core.runtime.contract', {'numpy'}),
    ('dgtl_core.engine.options', set()),
    ('dgtl_core.model_file', set()),
    ('dgtl_core.engine.cache', set()),
    ('dgtl_core.streetworld', {'numpy', 'cv2'}),
    ('dgtl_core.cli.fetch', set()),
    ('dgtl_core.cli.view', set()),
])
def test_light_modules_load_only(tree, module, allowed):
    extra = tree.foreign(module) - allowed - {'yaml'}
    assert module in tree.paths and not extra, f'{module} must not load {sorted(extra)}'


def test_streets_are_drawn_only_when_asked_for(tree):
    drawn = 'dgtl_core.streetworld'
    places = [name for name in tree.paths if not name.startswith(drawn)
              and tree.forbidden([name], drawn)]
    assert not [name for name in places if name.startswith(('dgtl_core.', 'dgtl_ros.'))
                and name not in ('dgtl_core.data.catalog', 'dgtl_core.recorded.sources',
                                 'dgtl_ros.show.drawing')]
    assert not [name for name in tree.below('dgtl_core', 'dgtl_ros')
                if not name.startswith(drawn) and drawn in tree.loads(name)]


def test_engine_libraries_stay_in_the_backends(tree):
    rest = [n for n in tree.below('dgtl_core')
            if not n.startswith(tuple(
                f'dgtl_core.{room}.' for room in ('runtime', 'engine', 'export', 'evaluation')))]
    assert not tree.forbidden(rest, 'onnxruntime', *TENSORRT)


def test_model_stands_alone(tree):
    assert not tree.forbidden(
        tree.below('dgtl_core.model'),
        *(f'dgtl_core.{layer}' for layer in (
            'data', 'engine', 'evaluation', 'export', 'folding', 'learning', 'runtime')))


def test_tensorrt_needs_no_torch(tree):
    names = [n for n in tree.below('dgtl_core.engine', 'dgtl_core.runtime')
             if 'torch' not in n]
    assert not tree.forbidden(names, 'torch', 'torchvision')
    assert not [n for n in names if 'torch' in tree.loads(n)]


def test_packages_load_nothing_heavy(tree):
    heavy = {name: sorted(extra) for name, path in tree.paths.items()
             if path.name == '__init__.py'
             and (extra := tree.foreign(name) - {'cv2', 'numpy', 'yaml'})}
    assert not heavy


def loaded_by(script: str, forbidden: set[str], *arguments: str) -> str:
    """Run the script in a fresh interpreter and return which forbidden packages it loaded."""
    done = subprocess.run(
        [sys.executable, '-c',
         f'import sys\n{script}\nprint(*sorted({forbidden} & set(sys.modules)))', *arguments],
        capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(
            filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize('module, forbidden', [
    ('dgtl_core.classes', {'cv2', 'numpy'} | ENGINES | LEARNING | ROS),
    ('dgtl_core.config', {'cv2', 'numpy'} | ENGINES | LEARNING | ROS),
    ('dgtl_core.metrics', ENGINES | LEARNING | ROS),
    ('dgtl_core.predictor', ENGINES | LEARNING | ROS),
    ('dgtl_core.runtime.backend', ENGINES | LEARNING | ROS),
    ('dgtl_core.runtime.onnx', TENSORRT | LEARNING | ROS),
    ('dgtl_core.recorded.sources',
     {'av', 'dgtl_core.streetworld', 'rosbags'} | ENGINES | LEARNING | ROS),
    ('dgtl_core.streetworld', ENGINES | LEARNING | ROS),
    ('dgtl_core.model.segmenter', {'onnxruntime', 'tensorrt', 'tensorrt_rtx'} | ROS),
])
def test_import_does_not_load(module, forbidden):
    if module.startswith('dgtl_core.model'):
        pytest.importorskip('torch')
    loaded = loaded_by(f'import {module}', forbidden)
    assert not loaded, f'{module} must not load {loaded}'


@pytest.mark.ros
@pytest.mark.parametrize('module', ['segment_node', 'show.camera_player'])
def test_nodes_do_not_load(module):
    pytest.importorskip('rclpy', exc_type=ImportError)
    loaded = loaded_by(f'import dgtl_ros.{module}', ENGINES | LEARNING | {'training'})
    assert not loaded, f'dgtl_ros.{module} must not load {loaded}'


def test_running_an_onnx_loads_no_torch(tmp_path):
    pytest.importorskip('onnx')
    from tiny_onnx import write_tiny_onnx
    model = write_tiny_onnx(tmp_path / 'tiny.onnx')
    script = (
        'import numpy, pathlib\n'
        'from dgtl_core.predictor import Predictor\n'
        'predict = Predictor.load(sys.argv[1])\n'
        'labels = predict(numpy.zeros((48, 64, 3), numpy.uint8)).labels\n'
        'assert labels.shape == (48, 64)\n'
        'assert "onnxruntime" in sys.modules')
    loaded = loaded_by(
        script, TENSORRT | LEARNING | ROS | {'dgtl_core.streetworld', 'training'}, str(model))
    assert not loaded, f'a Predictor on ONNX Runtime must not load {loaded}'
