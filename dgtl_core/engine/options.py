# SPDX-License-Identifier: Apache-2.0
"""How a TensorRT engine is made, kept and run."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from dgtl_core.model_file import ModelError

BUILDS = ('background', 'blocking', 'never')
HARDWARE = ('this', 'same_capability', 'ampere_plus')
MAX_BATCH = 1024
MAX_WORKSPACE_MIB = 2**20
_MADE_WITH = (
    'workspace_mib', 'optimization_level', 'hardware', 'version_compatible', 'max_batch')


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How TensorRT runs an ``.onnx`` file: it needs an engine that was built for this GPU."""

    build: str = 'background'  # ONNX Runtime answers meanwhile; 'blocking': wait; 'never': don't
    cache_dir: str = '~/.cache/dgtl_ros/engines'
    rebuild: bool = False      # build it again although there is one
    cache_gib: float = 8.0     # of all engines in cache_dir; above it the least recently used go
    blocking_sync: bool | None = None  # sleep while the GPU works; None: where it shares a chip
    # Each of these makes another engine of the same model.
    max_batch: int = 1         # pictures in one call; a model with a fixed batch keeps its own
    workspace_mib: int = 0     # most memory of one layer while it runs; 0: no limit
    optimization_level: int = 3       # 0 (quick to build) .. 5 (tries everything)
    hardware: str = 'this'            # which GPUs can run it, one of HARDWARE
    version_compatible: bool = False  # newer versions of TensorRT can run it, maybe slower

    def __post_init__(self) -> None:
        for name, allowed in (('build', BUILDS), ('hardware', HARDWARE)):
            value = getattr(self, name)
            if value not in allowed:
                raise ModelError(f'engine {name} must be one of {list(allowed)}, got {value!r}')
        for name, low, high in (('max_batch', 1, MAX_BATCH), ('optimization_level', 0, 5),
                                ('workspace_mib', 0, MAX_WORKSPACE_MIB)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:  # True is an int
                raise ModelError(
                    f'engine {name} must be a whole number in {low}..{high}, got {value!r}')
        gib = self.cache_gib
        for name, text, good in (
                ('rebuild', 'true or false', type(self.rebuild) is bool),
                ('version_compatible', 'true or false', type(self.version_compatible) is bool),
                ('blocking_sync', 'true, false or None',
                 self.blocking_sync is None or type(self.blocking_sync) is bool),
                ('cache_dir', 'a text', isinstance(self.cache_dir, str)),
                ('cache_gib', 'a number above 0', type(gib) in (int, float) and gib > 0)):
            if not good:
                raise ModelError(f'engine {name} must be {text}, got {getattr(self, name)!r}')

    def made_with(self) -> dict[str, str | int | float | bool | None]:
        """Return the options that an engine depends on, by name."""
        return {name: value for name, value in asdict(self).items() if name in _MADE_WITH}
