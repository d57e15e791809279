# SPDX-License-Identifier: Apache-2.0
"""Load the model that the parameters name, and make it ready for the first picture."""

from __future__ import annotations

import dataclasses
import os
import time

from dgtl_core.classes import ClassSet
from dgtl_core.domain import domain_of
from dgtl_core.predictor import (
    default_model,
    EngineOptions,
    find_model,
    ModelError,
    ModelMetadata,
    onnx_metadata,
    Predictor,
)
from dgtl_ros.diagnostics import Model
from dgtl_ros.settings import Settings
from dgtl_ros.speed_limit import FULL, SpeedLimiter
import numpy as np


def load_model(settings: Settings, rebuild: bool = False,
               classes: ClassSet | None = None) -> tuple[Predictor, Model]:
    """
    Load the model and run it on an empty picture as often as the parameters say.

    :param rebuild: build its engine again although there is one.
    :param classes: those that it has to have; None: any.
    :raises ModelError: it is missing, cannot run here, or is not what the parameters ask for.
    """
    start = time.monotonic()
    path = find_model(settings.model_path) if settings.model_path else default_model()
    if path.suffix == '.onnx' and path.is_file() and os.access(path, os.R_OK):
        _check_size(onnx_metadata(path), settings)  # before minutes go into its engine
    # An engine alone is wanted, so the reason why there is none has to be said.
    backend = ('tensorrt' if settings.build_only and settings.backend == 'auto'
               else settings.backend)
    predict = Predictor.load(
        path, backend, settings.device, settings.threads, settings.resize_mode,
        EngineOptions(
            build='blocking' if settings.build_only else settings.engine_build,
            cache_dir=settings.engine_cache_dir, rebuild=rebuild,
            max_batch=_most(settings), workspace_mib=settings.engine_workspace_mib,
            cache_gib=settings.engine_cache_gib),
        settings.precision)
    try:
        _check_size(predict.metadata, settings)
        _check_engine(predict, settings)
        _check_classes(predict, classes)
        domain_of(predict.metadata)  # a broken one is refused here
        empty = np.zeros((*predict.input_size, 3), np.uint8)
        for _ in range(settings.warmup_iterations):
            predict.many([empty] * batch_of(predict, settings))
    except BaseException:
        predict.close()
        raise
    return predict, Model(
        name=predict.metadata.name, path=str(path), sha256=predict.sha256,
        num_classes=len(predict.classes), input_size=predict.input_size,
        precision=(predict.metadata.precision if settings.precision == 'auto'
                   else settings.precision),
        load_s=time.monotonic() - start, embedded=not settings.model_path)


def rebuild(old: Predictor, settings: Settings, classes: ClassSet) -> tuple[Predictor, Model]:
    """
    Load the model again and begin to build its engine anew, in the background.

    :param old: what runs now; it stays as it is.
    :raises ModelError: no engine can come of it, or the file holds a model with other classes.
    """
    if old.engine is None:
        raise ModelError(f'there is no engine to build: {old.backend_name} runs the model')
    if old.engine.state == 'building':
        raise ModelError('the engine is being built already')
    if settings.engine_build == 'never':
        raise ModelError('engine_build is "never": set it to background or blocking')
    # In any case in the background, and without a warm-up: callbacks wait for this one.
    predict, model = load_model(dataclasses.replace(
        settings, engine_build='background', warmup_iterations=0), rebuild=True, classes=classes)
    if predict.engine is None or predict.engine.state == 'fallback':
        why = predict.engine.reason if predict.engine else 'TensorRT cannot run here any more'
        predict.close()
        raise ModelError(f'nothing is changed: {predict.backend_name} would run the model, '
                         f'without an engine ({why})')
    return predict, model


def _check_classes(predict: Predictor, classes: ClassSet | None) -> None:
    """Refuse a model with other classes than those that were announced."""
    if classes is not None and predict.classes.to_list() != classes.to_list():
        raise ModelError(
            f'the model file was replaced by one with other classes ({len(predict.classes)}, '
            f'{len(classes)} were announced, or with other names or colours): go through '
            'deactivate, cleanup, configure and activate to use it')


def _most(settings: Settings) -> int:
    return min(settings.max_batch_size, len(settings.camera_names))


def batch_of(predict: Predictor, settings: Settings) -> int:
    """Return the most pictures of one call: what is allowed, possible and of use."""
    return min(_most(settings), predict.max_batch)


def advice(predict: Predictor, model: Model, settings: Settings) -> list[str]:
    """Return a line for each thing that works but is probably not what was wanted."""
    lines = []
    if model.embedded:
        lines.append(
            'no model_path is set: the embedded model is for demonstration, not for driving')
    wanted = _most(settings)
    if predict.max_batch < wanted:
        lines.append(
            f'{model.name} takes {predict.max_batch} picture(s) in one call and max_batch_size '
            f'allows {wanted}: export it with "--dynamic-batch"')
    if SpeedLimiter.message is None and FULL > min(
            settings.domain_speed_shifted, settings.domain_speed_unusable):
        lines.append('nav2_msgs is not installed: domain.speed_shifted and domain.speed_unusable '
                     'have no effect; install Nav2, or use segmentation/health')
    return lines


def _check_size(metadata: ModelMetadata, settings: Settings) -> None:
    height, width = metadata.input_size
    wanted = settings.input_height or height, settings.input_width or width
    if wanted != (height, width):
        raise ModelError(
            f'{metadata.name} has an input of {height}x{width}, and input_height and '
            f'input_width ask for {wanted[0]}x{wanted[1]}; the size lies in the file: set both to '
            f'0, or make one with "python -m training.export CHECKPOINT OUT.onnx --size '
            f'{wanted[0]} {wanted[1]}"')


def _check_engine(predict: Predictor, settings: Settings) -> None:
    if settings.build_only and (predict.engine is None or predict.engine.state == 'fallback'):
        why = predict.engine.reason if predict.engine else 'TensorRT does not run it'
        raise ModelError(
            f'build_only: there is no engine, {predict.backend_name} runs the model ({why})')
