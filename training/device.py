# SPDX-License-Identifier: Apache-2.0
"""The device that a program runs on."""

from __future__ import annotations

import argparse

from dgtl_core.runtime.contract import RunOptions
import torch


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option ``--device``, for :func:`choose_device`."""
    parser.add_argument('--device', default=RunOptions.device,
                        help='auto, cpu, cuda or cuda:N (%(default)s)')


def choose_device(device: str) -> torch.device:
    """
    Return the device, 'auto' a GPU where there is one; one with a number becomes the current one.

    :raises ValueError: there is no such device.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == 'auto':
        device = 'cuda' if there else 'cpu'
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f'device must be auto, cpu, cuda or cuda:N, got {device!r}') from None
    if chosen.type not in ('cpu', 'cuda'):
        raise ValueError(f'device must be auto, cpu, cuda or cuda:N, got {device!r}')
    if chosen.type == 'cuda' and (chosen.index or 0) >= there:
        raise ValueError(
            f'device {device!r} was asked for, but PyTorch {torch.__version__} sees {there} CUDA '
            'devices; check the driver and that this PyTorch is a CUDA build, or take '
            '--device cpu')
    if chosen.index is not None and chosen.type == 'cuda':
        torch.cuda.set_device(chosen)  # events and streams are those of the current one
    return chosen
