# SPDX-License-Identifier: Apache-2.0
"""Every parameter of the segmentation node, in one table: name, default, range, meaning."""

from __future__ import annotations

from dataclasses import dataclass
import re

from dgtl_core.domain import DomainLimits
from dgtl_core.encodings import ENCODINGS
from dgtl_core.picture_header import MAX_PIXELS
from dgtl_core.predictor import BACKENDS, EngineOptions, MAX_THREADS, PRECISIONS, RunOptions
from dgtl_ros.parameters import expanded, option, ParameterError

_CAMERA = re.compile(r'/?[A-Za-z_][A-Za-z0-9_]*(/[A-Za-z_][A-Za-z0-9_]*)*')
_LEAST_SIDE = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The parameters of ``segment_node``; see the text of each."""

    model_path: str = option(
        '', 'Model file (.onnx, .engine or .safetensors); empty: the embedded demonstration model')
    backend: str = option(
        RunOptions.backend, 'What runs the model',
        choices=BACKENDS)
    device: str = option(
        RunOptions.device, 'Where the model runs: auto, cpu, cuda or cuda:N')
    precision: str = option(
        RunOptions.precision, 'Numbers the network computes with; auto: those of the model file. '
        'Only a checkpoint can be run in others, an .onnx or engine is exported with them',
        choices=PRECISIONS)
    engine_cache_dir: str = option(
        EngineOptions.cache_dir, 'Folder of the TensorRT engines that were built here')
    engine_build: str = option(
        EngineOptions.build, 'Where an .onnx has no engine yet; background: ONNX Runtime answers '
        'until it is built; blocking: wait for it; never: do without',
        choices=('background', 'blocking', 'never'))
    engine_workspace_mib: int = option(
        EngineOptions.workspace_mib, 'Most memory, MiB, of one layer while an engine runs; with '
        'a limit its build needs less, too; 0: no limit', low=0, high=1 << 20)
    engine_cache_gib: float = option(
        EngineOptions.cache_gib, 'Size of all engines there, GiB; above it those that were '
        'not used for the longest time are removed', low=0.1, high=1000.0)
    build_only: bool = option(
        False, 'Build the engine, wait for it and end; exit code 1 where there is none')
    max_batch_size: int = option(
        EngineOptions.max_batch, 'Most pictures in one call of a network with a dynamic batch, '
        'for several cameras', low=1, high=16)
    input_height: int = option(
        0, "Height of the network's input; 0: as in the model file, else 64 or more and what "
        'the file was exported with', low=0, high=4096)
    input_width: int = option(
        0, "Width of the network's input; as input_height", low=0, high=4096)
    threads: int = option(
        RunOptions.threads, 'CPU threads for one inference; 0: all cores', low=0, high=MAX_THREADS)
    resize_mode: str = option(
        'stretch', 'How a picture is brought to the size of the network',
        choices=('stretch', 'letterbox', 'crop'))
    warmup_iterations: int = option(
        3, 'Inferences on an empty picture before the node is ready', low=0, high=100)
    autostart: bool = option(
        True, 'Configure and activate without being told; false: wait for a lifecycle manager')
    cameras: tuple[str, ...] = option(
        ('',), 'Names of several cameras, each with its topics NAME/image and NAME/segmentation; '
        "['']: one camera, on image")
    image_transport: str = option(
        'raw', 'raw: subscribe to image; compressed: subscribe to image/compressed',
        choices=('raw', 'compressed'))
    input_encoding: str = option(
        'auto', 'How raw pictures are read; auto: as their encoding says, else for a driver that '
        'names a wrong one', choices=('auto', *ENCODINGS))
    max_pixels: int = option(
        1 << 25, 'Largest picture that is read; what is larger is refused before it is decoded, '
        'and so is a JPEG whose scans are more work than such a picture is worth', low=4096,
        high=MAX_PIXELS, dynamic=True)
    raw_subscription: bool = option(
        False, 'Take raw pictures as bytes, which rclpy need not unpack')
    image_reliability: str = option(
        'auto', 'Reliability asked of the camera; auto: whatever the camera offers',
        choices=('auto', 'reliable', 'best_effort'), name='qos.image.reliability')
    image_depth: int = option(
        1, 'Pictures that the middleware keeps; more than 1 makes the labels older',
        low=1, high=10, name='qos.image.depth')
    output_reliability: str = option(
        'reliable', 'Reliability offered for the labels', choices=('reliable', 'best_effort'),
        name='qos.output.reliability')
    output_depth: int = option(
        5, 'Label pictures kept for a slow subscriber', low=1, high=20, name='qos.output.depth')
    output_size: str = option(
        'input', "Labels have the camera's size (input) or the network's (network)",
        choices=('input', 'network'))
    confidence_threshold: float = option(
        0.0, 'Pixels below this probability become unlabeled_id', low=0.0, high=1.0, dynamic=True)
    class_thresholds: tuple[str, ...] = option(
        ('',), 'Thresholds of single classes, above confidence_threshold or below it, such as '
        "['person:0.3', 'road:0.8']")
    class_groups: str = option(
        '', 'File with own groups of classes, "drivable: [road, parking]"; they are published in '
        "place of the model's classes, with the confidence of the winning class (an export with "
        "--class-groups has that of the group); empty: the model's own")
    rotation: int = option(
        0, 'Degrees clockwise that the picture must be turned to be upright: 0, 90, 180 or 270; '
        "labels stay in the camera's own frame", low=0, high=270)
    ego_mask: str = option(
        '', "Picture of the size of the camera's, 255 where it shows the robot itself: these "
        'pixels are never judged, their label is unlabeled_id and their confidence 0; {camera} '
        'stands for the name of the camera; empty: none')
    unlabeled_id: int = option(
        255, 'Label of pixels without a class: below a threshold, in the ego mask, cut away by '
        'resize_mode crop, or all by domain.action ignore_labels', low=0, high=255, dynamic=True)
    overlay_alpha: float = option(
        0.5, 'Weight of the colours in the overlay', low=0.0, high=1.0, dynamic=True)
    overlay_max_rate: float = option(
        10.0, 'Most overlays per second; 0: no limit', low=0.0, high=60.0, dynamic=True)
    jpeg_quality: int = option(
        80, 'Quality of segmentation/overlay/compressed', low=1, high=100, dynamic=True)
    publish_debug: bool = option(
        True, 'Publish ~/debug/* for whoever subscribes', dynamic=True)
    enabled: bool = option(True, 'Infer; false: drop every picture', dynamic=True)
    max_rate: float = option(
        0.0, 'Most inferences per second, of all cameras together; 0: no limit', low=0.0,
        high=240.0, dynamic=True)
    max_image_age: float = option(
        0.5, 'Seconds by the ROS clock after which a picture is stale; 0: never', low=0.0,
        high=10.0, dynamic=True)
    on_stale: str = option(
        'drop', 'What happens to a stale picture', choices=('drop', 'process'), dynamic=True)
    input_timeout: float = option(
        2.0, 'Seconds without a picture after which the diagnostics report an error', low=0.1,
        high=60.0, dynamic=True)
    inference_timeout: float = option(
        5.0, 'Seconds after which an inference, or the decoder of a camera, counts as hung; 0: '
        'never', low=0.0, high=3600.0, dynamic=True)
    on_timeout: str = option(
        'report', 'What happens then; report: an error in the diagnostics; restart: the model is '
        'loaded again; exit: the process ends with code 1, for respawn',
        choices=('report', 'restart', 'exit'), dynamic=True)
    latency_warn_ms: float = option(
        100.0, 'Time for one picture above which the diagnostics warn', low=1.0, high=5000.0,
        dynamic=True)
    on_inference_error: str = option(
        'continue', 'What happens after max_consecutive_errors',
        choices=('continue', 'deactivate'))
    max_consecutive_errors: int = option(
        10, 'Failed inferences in a row after which on_inference_error applies', low=1, high=1000,
        dynamic=True)
    snapshot_dir: str = option(
        '~/.ros/dgtl_ros', 'Where ~/snapshot writes picture, labels and statistics', dynamic=True)
    domain_enabled: bool = option(
        True, 'Watch whether the pictures still look like something the model can judge',
        dynamic=True, name='domain.enabled')
    domain_min_mean_confidence: float = option(
        DomainLimits.min_mean_confidence, 'Mean confidence below which the domain counts as '
        'shifted, where no normal drives are known', low=0.0, high=1.0,
        dynamic=True, name='domain.min_mean_confidence')
    domain_max_entropy: float = option(
        DomainLimits.max_entropy, 'Estimated normalised entropy above which the domain counts as '
        'shifted, where no normal drives are known', low=0.0,
        high=1.0, dynamic=True, name='domain.max_entropy')
    domain_dark_luma: float = option(
        DomainLimits.dark_luma, 'Mean brightness below which a picture counts as dark',
        low=0.0, high=255.0,
        dynamic=True, name='domain.dark_luma')
    domain_bright_luma: float = option(
        DomainLimits.bright_luma, 'Mean brightness above which a picture counts as overexposed',
        low=0.0, high=255.0,
        dynamic=True, name='domain.bright_luma')
    domain_blur_laplacian: float = option(
        DomainLimits.blur_laplacian, 'Variance of the Laplacian below which a picture counts '
        'as blurred', low=0.0,
        high=10000.0, dynamic=True, name='domain.blur_laplacian')
    domain_level_shifted: str = option(
        'warn', 'Level of the domain status where pictures are unlike those known',
        choices=('ok', 'warn', 'error'), dynamic=True, name='domain.level_shifted')
    domain_level_unusable: str = option(
        'warn', 'Level of the domain status where pictures show nothing: dark, overexposed, '
        'blurred, frozen', choices=('ok', 'warn', 'error'), dynamic=True,
        name='domain.level_unusable')
    domain_action: str = option(
        'nothing', 'What else happens to pictures that are not familiar', choices=(
            'nothing', 'zero_confidence', 'ignore_labels', 'stop_publishing'), dynamic=True,
        name='domain.action')
    domain_speed_shifted: float = option(
        100.0, 'Percent of the speed that speed_limit allows where pictures are unlike those '
        'known; 100: no limit; needs nav2_msgs', low=1.0, high=100.0, dynamic=True,
        name='domain.speed_shifted')
    domain_speed_unusable: float = option(
        100.0, 'The same where pictures show nothing', low=1.0, high=100.0, dynamic=True,
        name='domain.speed_unusable')
    domain_window: int = option(
        DomainLimits.window, 'Pictures over which the domain is judged', low=1, high=600,
        dynamic=True,
        name='domain.window')

    def __post_init__(self) -> None:
        if self.rotation % 90:
            raise ParameterError(
                f'parameter rotation must be 0, 90, 180 or 270, got {self.rotation}')
        for name in ('model_path', 'snapshot_dir', 'engine_cache_dir', 'class_groups'):
            expanded(name, getattr(self, name))
        if self.output_size == 'network' and self.resize_mode != 'stretch':
            raise ParameterError(
                f'output_size network shows the whole picture, which resize_mode '
                f'{self.resize_mode} does not: use resize_mode stretch or output_size input')
        for name in ('input_height', 'input_width'):
            if 0 < getattr(self, name) < _LEAST_SIDE:
                raise ParameterError(
                    f'parameter {name} must be 0 or an integer in {_LEAST_SIDE}..4096, got '
                    f'{getattr(self, name)}')
        for name in self.camera_names:
            if name and not _CAMERA.fullmatch(name):
                raise ParameterError(
                    f'parameter cameras must be names of topics, such as front or left/color '
                    f'(letters, digits and _, none starts with a digit), got {name!r}')
        if len({name.lstrip('/') for name in self.camera_names}) < len(self.camera_names):
            raise ParameterError(
                f'parameter cameras names one twice: {list(self.cameras)}; each once')
        if self.image_transport == 'compressed':
            for name, is_set in (('input_encoding', self.input_encoding != 'auto'),
                                 ('raw_subscription', self.raw_subscription)):
                if is_set:
                    raise ParameterError(
                        f'{name} is about raw pictures: leave it at its default, or use '
                        'image_transport raw')

    @property
    def camera_names(self) -> tuple[str, ...]:
        """The cameras; one without a name where none is named."""
        return tuple(filter(None, self.cameras)) or ('',)


def limits(settings: Settings) -> DomainLimits:
    """Return the limits of the domain among the parameters."""
    return DomainLimits(
        min_mean_confidence=settings.domain_min_mean_confidence,
        max_entropy=settings.domain_max_entropy, dark_luma=settings.domain_dark_luma,
        bright_luma=settings.domain_bright_luma, blur_laplacian=settings.domain_blur_laplacian,
        window=settings.domain_window)
