# SPDX-License-Identifier: Apache-2.0
from dgtl_core.predictor import ModelError
import pytest

pytest.importorskip('rclpy', reason='needs rclpy', exc_type=ImportError)
pytest.importorskip('onnx')
from dgtl_ros.loading import advice, batch_of, load_model
from dgtl_ros.settings import Settings
from fake_robot import fake_robot
from tiny_onnx import write_tiny_onnx

pytestmark = pytest.mark.ros


def load(path, **parameters):
    settings = Settings(model_path=str(path), device='cpu', **parameters)
    predict, model = load_model(settings)
    return predict, model, settings


def test_the_size_that_the_file_has_may_be_asked_for(tmp_path):
    path = write_tiny_onnx(tmp_path / 'm.onnx', (64, 128))
    for size in ((64, 128), (64, 0), (0, 128), (0, 0)):
        predict, model, _ = load(path, input_height=size[0], input_width=size[1])
        assert model.input_size == predict.input_size == (64, 128)
        predict.close()


@pytest.mark.parametrize('parameters, message', [
    ({'input_height': 512, 'input_width': 1024},
     'input of 32x64, and input_height and input_width ask for 512x1024; .* --size 512 1024'),
    ({'input_width': 128}, 'ask for 32x128'),
    ({'precision': 'fp16'}, "computes in fp32 and precision 'fp16' was asked for"),
    ({'precision': 'int8'}, "computes in fp32 and precision 'int8' was asked for"),
    ({'build_only': True}, "TensorRT cannot run .*: device is 'cpu'"),
    ({'build_only': True, 'backend': 'onnxruntime'},
     'build_only: there is no engine, onnxruntime .* runs the model'),
])
def test_what_the_model_cannot_do(tiny_model, parameters, message):
    with pytest.raises(ModelError, match=message):
        load(tiny_model, **parameters)


def test_a_model_that_is_refused_is_freed(tiny_model, monkeypatch):
    closed = []
    monkeypatch.setattr('dgtl_core.runtime.onnx.OnnxBackend.close', lambda self: closed.append(1))
    with pytest.raises(ModelError):
        load(tiny_model, build_only=True, backend='onnxruntime')
    assert closed == [1]


@pytest.mark.parametrize('axis, cameras, allowed, batch, lines', [
    (1, ['a', 'b'], 4, 1, 1), ('B', ['a', 'b'], 4, 2, 0), ('B', ['a', 'b', 'c'], 2, 2, 0),
    ('B', [''], 4, 1, 0), (1, [''], 4, 1, 0), (1, ['a', 'b'], 1, 1, 0)])
def test_batch(tmp_path, axis, cameras, allowed, batch, lines):
    """As many pictures as there are cameras, if parameters and model allow it."""
    path = write_tiny_onnx(tmp_path / 'm.onnx', batch=axis)
    predict, model, settings = load(path, cameras=tuple(cameras), max_batch_size=allowed)
    assert batch_of(predict, settings) == batch
    said = advice(predict, model, settings)
    assert len(said) == lines and all('--dynamic-batch' in line for line in said)
    predict.close()


def test_an_engine_is_built_for_as_many_pictures_as_there_are_cameras(tmp_path, monkeypatch):
    with fake_robot(tmp_path, monkeypatch) as robot:
        write_tiny_onnx(robot.model, batch='pictures')
        load_model(Settings(
            model_path=str(robot.model), build_only=True, engine_cache_dir=str(robot.cache),
            cameras=('a', 'b'), max_batch_size=4))[0].close()
        assert '--max-batch 2 ' in robot.builds[0]


def test_the_embedded_model_comes_with_a_warning():
    settings = Settings(device='cpu', warmup_iterations=0)
    predict, model = load_model(settings)
    assert model.embedded and 'not for driving' in advice(predict, model, settings)[0]
    predict.close()
