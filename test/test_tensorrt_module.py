# SPDX-License-Identifier: Apache-2.0
import sys

from dgtl_core.predictor import ModelError
from dgtl_core.runtime.tensorrt_module import import_tensorrt, installed_module
import pytest

pytest.importorskip('onnx')


def test_tensorrt_that_is_not_there_is_said(monkeypatch):
    for name in ('tensorrt', 'tensorrt_rtx'):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert installed_module() == ''
    with pytest.raises(ModelError, match='cannot be imported.*python3-libnvinfer'):
        import_tensorrt()
    with pytest.raises(ModelError, match="must be one of .*got 'trt'"):
        import_tensorrt('trt')
