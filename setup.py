# SPDX-License-Identifier: Apache-2.0
"""
Packaging for pip and for colcon (ament_python).

The metadata is here and not in pyproject.toml: colcon and the setuptools 59 of Ubuntu 22.04 read
only setup.py and setup.cfg.
"""

from pathlib import Path

from setuptools import find_packages, setup

NAME = 'dgtl_ros'


def installed_tree(folder, patterns):
    """Return data_files entries that put the matching files below share/dgtl_ros, by folder."""
    files = [path for pattern in patterns for path in Path(folder).rglob(pattern)]
    parents = sorted({path.parent for path in files})
    return [
        (f'share/{NAME}/{parent}', sorted(str(path) for path in files if path.parent == parent))
        for parent in parents
    ]


# A network as torch modules; the robot needs none of these.
NETWORK = ['torch>=2.4', 'torchvision>=0.19', 'timm>=1.0.20', 'safetensors>=0.4']
# What makes the documentation; its Python reference is read from the docstrings.
DOCS = ['mkdocs-material>=9.5', 'mkdocstrings[python]>=0.26']

setup(
    name=NAME,
    version='0.1.0',
    description='Domain-generalized semantic segmentation of camera images for ROS 2',
    maintainer='dgtl_ros maintainers',
    maintainer_email='maintainers@dgtl-ros.example',
    license='Apache-2.0',
    license_files=['LICENSE'],
    python_requires='>=3.10',
    packages=find_packages(include=[NAME, f'{NAME}.*', 'dgtl_core', 'dgtl_core.*']),
    package_data={'dgtl_core.engine': ['pictures/*.jpg'], 'dgtl_core.view': ['page/*']},
    zip_safe=False,
    data_files=[
        ('share/ament_index/resource_index/packages', [f'resource/{NAME}']),
        (f'share/{NAME}', ['package.xml']),
        *installed_tree('launch', ['*.launch.py']),
        *installed_tree('config', ['*.yaml', '*.xml', '*.rviz']),
        *installed_tree('models', ['dgtl_mini.*', 'zoo.yaml']),
    ],
    install_requires=[
        'numpy>=1.26',
        # Any cv2 from 4.5 will do, but pip knows no "either of": this build has no window system
        # to depend on. Beside opencv-python or a system OpenCV, install with --no-deps.
        'opencv-python-headless>=4.5',
        'pyyaml>=5.4',
        # On a GPU: install with --no-deps, and onnxruntime-gpu, which is the same module.
        'onnxruntime>=1.19',
        'tqdm>=4.60',
    ],
    extras_require={
        # A real rclpy and DDS for a machine without ROS 2 (x86-64); never beside a sourced one.
        'ros': [
            'ros-rclpy[fastrtps]>=7.1',
            'ros-diagnostic-msgs',
            'ros-sensor-msgs',
            'ros-std-msgs',
            'ros-std-srvs',
        ],
        'train': [
            *NETWORK,
            'matplotlib>=3.7',
            'open_clip_torch>=2.24',
            'pillow>=9',
            'scipy>=1.11',
            'tensorboard>=2.14',
        ],
        'export': [*NETWORK, 'onnx>=1.16', 'onnxscript>=0.1'],
        # What `dgtl predict` reads bags and writes videos with, its sink for the rerun viewer, and
        # its way onto a cluster.
        'recorded': ['av>=12', 'rosbags>=0.10.5'],
        # JPEG from cameras: decoded three times as fast as by OpenCV, and damage is noticed.
        'jpeg': ['simplejpeg>=1.7'],
        'rerun': ['rerun-sdk>=0.23'],
        'view': ['starlette>=0.37', 'uvicorn>=0.27', 'websockets>=12'],  # the page of `dgtl view`
        'ray': ['fsspec>=2023.1', 'ray>=2.9'],  # and what fsspec needs for your storage: s3fs
        # The builder and parser of TensorRT-RTX work without a GPU. Proprietary: only for checks.
        'tensorrt-check': ['tensorrt-rtx>=1.7'],
        # Beside the TensorRT of the robot, which comes from the system (docs/deploy.md).
        'tensorrt': ['cuda-python>=12'],
        'segformer': ['transformers>=4.40'],  # a network that training.benchmark compares with
        'docs': DOCS,
        'test': ['pytest>=7.4'],  # without this one `colcon test` runs no test
        'dev': [
            'pytest>=7.4',
            'pytest-timeout>=2.2',
            'pytest-xdist>=3.2',
            'hypothesis>=6.80',
            # Guides "make fuzz", which mutates at random where there is no wheel of it.
            'atheris>=2.3; platform_system == "Linux" and platform_machine == "x86_64"',
            'simplejpeg>=1.7',
            'mypy>=1.10',
            'ruff>=0.5',
            'pylint>=3.2',     # finds repeated code
            'pip-audit>=2.7',
            *DOCS,
            'psutil>=5.9',
            'av>=12',
            'fsspec>=2023.1',
            'ray>=2.9',
            'rosbags>=0.10.5',
            'rerun-sdk[catalog]>=0.26',  # the catalog reads back what was written
            'starlette>=0.37',
            'uvicorn>=0.27',
            'websockets>=12',
            'playwright>=1.40',  # drives the browser that is installed, if one is
            'scikit-learn>=1.3',
            'huggingface_hub>=0.20',
            'transformers>=4.40',
            # What test_packaging.py builds with; colcon wants setuptools < 80.
            'setuptools>=64',
            'wheel',
            'colcon-core>=0.15',
            'colcon-library-path',
            'colcon-package-information',
            'colcon-package-selection',
            'colcon-ros>=0.4',
        ],
    },
    entry_points={
        'console_scripts': [
            'dgtl = dgtl_core.cli.main:main',
            'segment_node = dgtl_ros.start:segment_node',
            'label_points = dgtl_ros.start:label_points',
            'camera_player = dgtl_ros.start:camera_player',
        ],
        # What `dgtl` finds without importing it (dgtl_core/cli/external.py).
        'dgtl.commands': ['view-ros = dgtl_ros.show.view:main'],
    },
)
