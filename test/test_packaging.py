# SPDX-License-Identifier: Apache-2.0
"""The package as pip and colcon install it, away from the source tree."""

import importlib.metadata
import json
import os
from pathlib import Path
import re
import shutil
import signal
import subprocess
import sys
import venv

from dgtl_core.engine.child import tied
from dgtl_ros.show.children import free_domain
import pytest
from test_layers import imports, modules, OWN, ROS, Tree

ROOT = Path(__file__).resolve().parent.parent
SITE = Path(f'lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages')
SOURCES = [
    'config', 'dgtl_core', 'dgtl_ros', 'launch', 'models', 'resource', 'test', 'training',
    'LICENSE', 'package.xml', 'pyproject.toml', 'setup.cfg', 'setup.py']
NOT_INSTALLED = ['config', 'launch', 'models', 'resource', 'test', 'training']
EXECUTABLES = ['camera_player', 'dgtl', 'label_points', 'segment_node']
# Modules that another distribution than the one of the same name brings.
DISTRIBUTIONS = {
    'cv2': 'opencv-python-headless', 'open_clip': 'open-clip-torch', 'yaml': 'pyyaml',
    'PIL': 'pillow', 'rerun': 'rerun-sdk', 'sklearn': 'scikit-learn', 'catkin_pkg': 'colcon-ros'}
# Parts of rclpy's own requirements; what only a ROS 2 brings; what only a Jetson or CUDA brings;
# a fuzzer that has no wheel for every Python, and which is used where it is installed.
ELSEWHERE = {'ament_index_python', 'builtin_interfaces', 'lifecycle_msgs', 'rcl_interfaces',
             'rosgraph_msgs', 'bondpy', 'cv_bridge', 'launch', 'launch_ros', 'nav2_msgs',
             'tf2_ros', 'vision_msgs', 'cuda', 'tensorrt', 'atheris'}
WHERE = """
import json, dgtl_core, dgtl_ros
from dgtl_core.predictor import default_model
print(json.dumps([dgtl_core.__file__, dgtl_ros.__file__, str(default_model())]))
"""


@pytest.fixture
def source(tmp_path):
    """Return a copy of what is packaged, so that no build leaves anything in the tree."""
    copy = tmp_path / 'source'
    copy.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns(
                '__pycache__', 'golden', '*.engine', '*.safetensors', '*.pth'))
        else:
            shutil.copy2(ROOT / name, copy)
    return copy


@pytest.fixture
def environment(tmp_path):
    """Return an empty virtual environment that borrows the packages of this one."""
    prefix = tmp_path / 'environment'
    venv.EnvBuilder(symlinks=True).create(prefix)
    borrowed = [p for p in sys.path if Path(p).name in {'site-packages', 'dist-packages'}]
    (prefix / SITE / 'zz_borrowed.pth').write_text('\n'.join(borrowed) + '\n')
    return prefix


def run(*command, cwd, **variables):
    """Run to the end and return the output; fail with all that the program said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**{k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}, **variables})
    assert done.returncode == 0, done.stdout
    return done.stdout


def pip_install(prefix, *arguments, cwd):
    python = prefix / 'bin' / 'python'
    run(python, '-m', 'pip', 'install', '--no-deps', '--no-build-isolation', '--force-reinstall',
        '--no-index', *arguments, cwd=cwd)
    return python


def importable(python, cwd):
    """Return which of our other folders can be imported; `test` and `resource` are Python's."""
    script = ('import importlib.util, sys\n'
              'print(*[n for n in sys.argv[1:] if importlib.util.find_spec(n)])')
    names = set(NOT_INSTALLED) - {'resource', 'test'}
    return run(python, '-c', script, *names, cwd=cwd).split()


def starts_and_stops(command, cwd, **variables):
    """
    Run the node without a model until it is up, then end it as Ctrl-C does.

    It ends with this process too, should somebody kill that one in between.
    """
    command = [shutil.which(command[0]), *command[1:]]
    node = subprocess.Popen(
        [*tied(), *command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, 'ROS_LOG_DIR': str(cwd), 'ROS_DOMAIN_ID': str(free_domain()[0]),
             'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST', **variables})
    said = ''
    try:
        for line in node.stdout:
            said += line
            if 'labels of /image go to /segmentation' in line:
                break
        assert 'demonstration' in said, f'not up: {said}'
        node.send_signal(signal.SIGINT)
        rest, _ = node.communicate(timeout=10)
        assert node.returncode == 0, said + rest
    finally:
        node.kill()
        node.wait()


def check_share(share):
    """Everything that a launch file, the node and a user look for after installation."""
    expected = {str(p.relative_to(ROOT)) for pattern in (
        'launch/*.launch.py', 'config/**/*.yaml', 'config/*.xml', 'config/*.rviz',
        'models/dgtl_mini.onnx', 'models/zoo.yaml') for p in ROOT.glob(pattern)}
    found = {str(p.relative_to(share)) for p in share.rglob('*') if p.is_file()}
    assert expected <= found
    assert {'launch/segment.launch.py', 'launch/demo.launch.py', 'config/segment.yaml',
            'config/fastdds_large_images.xml', 'config/classes/cityscapes.yaml',
            'models/dgtl_mini.onnx', 'models/zoo.yaml', 'package.xml'} <= found
    assert (share.parent / 'ament_index/resource_index/packages/dgtl_ros').is_file()
    model = share / 'models' / 'dgtl_mini.onnx'
    assert model.read_bytes() == (ROOT / 'models' / 'dgtl_mini.onnx').read_bytes()


@pytest.mark.ros
def test_pip_install(source, environment, tmp_path):
    pytest.importorskip('rclpy', exc_type=ImportError)
    python = pip_install(environment, source, cwd=tmp_path)
    shutil.rmtree(source)
    core, ros, model = map(Path, json.loads(run(python, '-c', WHERE, cwd=tmp_path)))
    assert environment / SITE in core.parents and environment / SITE in ros.parents
    assert model == environment / 'share/dgtl_ros/models/dgtl_mini.onnx'
    assert not {p.name for p in (environment / SITE).iterdir()} & set(NOT_INSTALLED)
    assert not importable(python, tmp_path)
    check_share(environment / 'share' / 'dgtl_ros')
    assert {path.name for path in (core.parent / 'view' / 'page').iterdir()} == {
        'index.html', 'plot.js', 'style.css', 'view.js'}
    assert 'soma-gtav-l' in run(environment / 'bin' / 'dgtl', 'fetch', cwd=tmp_path)
    for name in EXECUTABLES:
        assert os.access(environment / 'bin' / name, os.X_OK)
    starts_and_stops([environment / 'bin' / 'segment_node'], tmp_path)


def test_pip_install_editable(source, environment, tmp_path):
    python = pip_install(environment, '--editable', source, cwd=tmp_path)
    core, ros, model = map(Path, json.loads(run(python, '-c', WHERE, cwd=tmp_path)))
    assert core.parent.parent == ros.parent.parent == source
    assert model == source / 'models' / 'dgtl_mini.onnx'
    assert not importable(python, tmp_path)
    for name in EXECUTABLES:
        assert os.access(environment / 'bin' / name, os.X_OK)


@pytest.mark.ros
@pytest.mark.parametrize('options', [[], ['--symlink-install']], ids=['copied', 'symlinks'])
def test_colcon_build(source, tmp_path, options):
    pytest.importorskip('rclpy', exc_type=ImportError)
    pytest.importorskip('colcon_ros')
    colcon = [sys.executable, '-m', 'colcon', '--log-base', tmp_path / 'log']
    settings = {'COLCON_HOME': str(tmp_path), 'PYTHONPATH': ''}
    listed = run(*colcon, 'list', cwd=source, **settings)
    assert listed.split() == ['dgtl_ros', '.', '(ros.ament_python)']

    run(*colcon, 'build', *options, '--base-paths', source, cwd=tmp_path, **settings)
    prefix = tmp_path / 'install' / 'dgtl_ros'
    check_share(prefix / 'share' / 'dgtl_ros')
    assert sorted(p.name for p in (prefix / 'lib' / 'dgtl_ros').iterdir()) == EXECUTABLES
    if not options:
        assert not {p.name for p in (prefix / SITE).iterdir()} & set(NOT_INSTALLED)
        shutil.rmtree(source)
    sourced = {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'PYTHONPATH': ''}
    in_install_space = ['sh', '-c', f'. {tmp_path}/install/setup.sh && exec "$@"', 'sh']
    share = run(*in_install_space, 'python3', '-c',
                'from ament_index_python.packages import get_package_share_directory as share\n'
                'print(share("dgtl_ros"))', cwd=tmp_path, **sourced)
    assert share.strip() == str(prefix / 'share' / 'dgtl_ros')
    starts_and_stops(
        [*in_install_space, prefix / 'lib' / 'dgtl_ros' / 'segment_node'], tmp_path, **sourced)


def ros_packages(*folders):
    """Return the ROS packages that the Python files of these folders of ours import."""
    found = modules(ROOT, *folders)
    used = {i.module.split('.')[0] for n, path in found.items() for i in imports(n, path, found)}
    return {{'tf2_ros': 'tf2_ros_py'}.get(name, name) for name in used & ROS}


def test_package_xml():
    parse = pytest.importorskip('catkin_pkg.package').parse_package
    warnings = []
    package = parse(str(ROOT / 'package.xml'), warnings=warnings)
    package.validate(warnings=warnings)
    assert not warnings
    assert package.package_format == 3 and package.licenses == ['Apache-2.0']
    assert package.get_build_type() == 'ament_python'
    assert '                                 Apache License\n' in (ROOT / 'LICENSE').read_text()

    used = ros_packages('dgtl_ros', 'launch')
    package.evaluate_conditions({})
    declared = {d.name for d in package.exec_depends
                if d.evaluated_condition and not d.name.startswith('python3-')}
    assert declared == used
    optional = {d.name for d in package.exec_depends if d.condition}
    launch = ''.join(p.read_text() for p in (ROOT / 'launch').glob('*.launch.py'))
    assert len(optional) == 5 and all(f"'{name}'" in launch for name in optional)
    declared = {d.name for d in package.test_depends
                if not d.name.startswith(('python3-', 'ament_'))}
    assert declared == ros_packages('test') - used


@pytest.fixture
def metadata(source, tmp_path):
    run(sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', tmp_path, cwd=source)
    return importlib.metadata.PathDistribution(tmp_path / 'dgtl_ros.egg-info')


def requirements(metadata, *extras):
    """Return the normalised names that pip installs with these extras."""
    names = set()
    for requirement in metadata.requires:
        extra = re.search(r'extra == ["\']([\w-]+)', requirement)
        if not extra or extra[1] in extras:
            names.add(re.match(r'[\w.-]+', requirement)[0].lower().replace('_', '-'))
    return names


@pytest.mark.parametrize('extras, parts', [
    ([], ['dgtl_core.classes', 'dgtl_core.config', 'dgtl_core.streetworld',
          'dgtl_core.metrics', 'dgtl_core.predictor', 'dgtl_core.processing',
          'dgtl_core.runtime.backend', 'dgtl_core.engine.cache',
          'dgtl_core.model_file', 'dgtl_core.runtime.onnx', 'dgtl_core.visualize']),
    (['ros', 'view'], ['dgtl_ros']),
    (['train', 'export', 'recorded', 'rerun', 'view', 'ray', 'jpeg', 'segformer'],
     ['dgtl_core', 'training']),
    (['ros', 'train', 'export', 'dev', 'tensorrt-check', 'ray'], ['test']),
], ids=['run', 'ros', 'learn', 'test'])
def test_every_import_is_a_requirement(metadata, extras, parts):
    tree = Tree(ROOT)
    tests = modules(ROOT, 'test')
    found = [i for n in tree.below(*parts) for i in tree.imports[n]]
    if parts == ['test']:
        found = [i for name, path in tests.items() for i in imports(name, path, tests)]
    own = {*OWN, *(name.rpartition('.')[2] for name in tests)}
    used = {i.module.split('.')[0] for i in found} - sys.stdlib_module_names - own - ELSEWHERE
    needed = {DISTRIBUTIONS.get(m, f'ros-{m}' if m in ROS else m).replace('_', '-')
              for m in used}
    missing = needed - requirements(metadata, *extras)
    assert used and not missing, f'setup.py does not require {sorted(missing)}'


def test_every_source_file_names_its_licence():
    """What ament_copyright looks for, in the short form of SPDX."""
    files = [p for folder in ('dgtl_core', 'dgtl_ros', 'launch', 'test', 'training')
             for p in (ROOT / folder).rglob('*.py')]
    line = '# SPDX-License-Identifier: Apache-2.0\n'
    bare = [str(p.relative_to(ROOT)) for p in [ROOT / 'setup.py', *files]
            if line not in p.read_text(encoding='utf-8')[:100]]
    assert len(files) > 100 and not bare


def test_versions_agree(metadata):
    package = (ROOT / 'package.xml').read_text()
    assert f'<version>{metadata.version}</version>' in package
