# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn
import torch.nn.functional as F
from training.bench.roofline import (
    bandwidth,
    Board,
    BOARDS,
    count,
    count_by_part,
    label_network,
    main,
    peak_flops,
    Work,
)


class Net(nn.Module):
    """A convolution, a matrix product and an attention whose work is known."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4, bias=False)
        self.linear = nn.Linear(8, 16, bias=False)

    def forward(self, pictures):
        x = self.conv(pictures.float().permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        x = self.linear(x)
        return F.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize('batch', [1, 3])
def test_work_is_counted_exactly(batch):
    tokens = 4 * 8
    expected = 2 * tokens * 8 * 3 * 16 + 2 * tokens * 8 * 16 + 2 * 2 * tokens * tokens * 16
    work = count(Net(), (16, 32), batch)
    assert work.flops == batch * expected
    assert work.weights == 8 * 3 * 16 + 8 * 16


def test_traffic_is_what_every_operation_reads_and_writes():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(3))

        def forward(self, pictures):
            return pictures.permute(0, 3, 1, 2).float() * 2  # the permutation is a view

    pixels = 4 * 8 * 3
    assert count(Sum(), (4, 8)).traffic == pixels + 4 * pixels + 2 * 4 * pixels


def test_a_segmenter_is_counted_without_running(monkeypatch):
    network = label_network('dgtl-mini', (256, 512))
    work = count(network, (256, 512))
    tokens, width, depth = 16 * 32, 192, 8
    blocks = depth * (24 * tokens * width**2 + 4 * tokens**2 * width)
    assert blocks < work.flops < 10 * blocks
    assert count(network, (256, 512), 2).flops == pytest.approx(2 * work.flops, rel=0.01)


def test_the_slower_of_arithmetic_and_memory_is_the_bound():
    board = Board('b', tflops=10.0, gb_per_s=100.0)
    assert Work(1e12, 1e8).pictures_per_s(board) == 10
    assert Work(1e11, 5e9).pictures_per_s(board) == 10
    assert Work(1e11, 1e8).pictures_per_s(board) == 100
    assert Work(8e9, 1e9).seconds(4e9, 2e9, 4) == 2
    assert Work(8e9, 1e9).seconds(4e9, 1e9, 4) == 4


def test_boards_rise():
    assert [b.tflops for b in BOARDS] == sorted(b.tflops for b in BOARDS)
    assert BOARDS[2].tflops < 0.55 * 42.5  # not above what is calibrated


def test_parts_have_their_flops():
    network = label_network('dgtl-mini', (256, 512))
    found = count_by_part(network, (256, 512))
    tokens, width, depth = 16 * 32, 192, 8
    assert found['ViT MLP'] == depth * 16 * (tokens + 1) * width**2
    assert sum(found.values()) == count(network, (256, 512)).flops


def test_the_peaks_are_measured():
    cpu = torch.device('cpu')
    assert 1e8 < peak_flops(cpu, torch.float32, size=256, seconds=0.05) < 1e15
    assert 1e8 < bandwidth(cpu, mib=64, seconds=0.05) < 1e13


def test_the_command_prints_a_table(capsys):
    assert main(['dgtl-mini']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert 'Jetson Thor' in lines[0] and lines[2].startswith('| dgtl-mini 256x512 |')
    assert main(['dgtl-dinov2-xl']) == 2
    assert 'unknown preset' in capsys.readouterr().err
