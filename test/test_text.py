# SPDX-License-Identifier: Apache-2.0
"""Class texts: the file, and CLIP's text encoder."""

from pathlib import Path

from dgtl_core.classes import CITYSCAPES
from dgtl_core.model.text import (
    ClassTexts,
    clip_text_tensors,
    encode_clip_text,
    load_texts,
    save_texts,
)
import golden_weights as recipe
import numpy as np
import pytest
import torch
from training.embed_classes import embed_with_open_clip, main, TEMPLATES, texts_of

SMALL = Path(__file__).parent / 'golden'


def clip_shapes(width=512, layers=12, vocabulary=49408, out=1024):
    shapes = {'token_embedding.weight': (vocabulary, width), 'positional_embedding': (77, width),
              'ln_final.weight': (width,), 'ln_final.bias': (width,),
              'text_projection': (width, out)}
    for i in range(layers):
        block = f'transformer.resblocks.{i}'
        for name, *shape in (
                ('attn.in_proj_weight', 3 * width, width), ('attn.in_proj_bias', 3 * width),
                ('attn.out_proj.weight', width, width), ('attn.out_proj.bias', width),
                ('ln_1.weight', width), ('ln_1.bias', width), ('ln_2.weight', width),
                ('ln_2.bias', width), ('mlp.c_fc.weight', 4 * width, width),
                ('mlp.c_fc.bias', 4 * width), ('mlp.c_proj.weight', width, 4 * width),
                ('mlp.c_proj.bias', width)):
            shapes[f'{block}.{name}'] = tuple(shape)
    return {f'backbone.reins.clip_model.{key}': shape for key, shape in shapes.items()}


def test_text_encoder_gives_the_recorded_numbers():
    case, _ = recipe.load_case(SMALL / 'clip_text.npz')
    tokens = torch.from_numpy(case['token_ids'])
    assert tokens.argmax(1).tolist() == case['eot_index'].tolist()
    state = recipe.state_dict(clip_shapes())
    found = encode_clip_text(clip_text_tensors(state), tokens)[:, ::4]
    expected = torch.from_numpy(case['text_features'])
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_tokens_of_the_class_names_are_the_recorded_ones():
    open_clip = pytest.importorskip('open_clip')
    case, _ = recipe.load_case(SMALL / 'clip_text.npz')
    assert case['class_names'].tolist() == list(CITYSCAPES.names)
    assert np.array_equal(open_clip.tokenize(list(CITYSCAPES.names)).numpy(), case['token_ids'])


def test_text_encoder_names_what_is_missing():
    state = clip_text_tensors(recipe.state_dict(clip_shapes(64, 1, 100, 8)))
    del state['transformer.resblocks.0.mlp.c_fc.bias']
    with pytest.raises(ValueError, match=r'without transformer.resblocks.0.mlp.c_fc.bias'):
        encode_clip_text(state, torch.ones(2, 77, dtype=torch.long))


def test_file_keeps_texts_classes_and_provenance(tmp_path):
    texts = ClassTexts(torch.randn(3, 5), ('a', 'b', 'c'), 'made by hand')
    save_texts(tmp_path / 'texts.npz', texts)
    found = load_texts(tmp_path / 'texts.npz')
    assert torch.equal(found.embeddings, texts.embeddings) and found[1:] == texts[1:]
    picked = load_texts(tmp_path / 'texts.npz', ['c', 'a'])
    assert torch.equal(picked.embeddings, texts.embeddings[[2, 0]])
    assert [path.name for path in tmp_path.iterdir()] == ['texts.npz']


def test_shared_files_are_read(shared):
    texts = load_texts(shared / 'data/clip_text/cityscapes19_clip_vitb16.npz', CITYSCAPES.names)
    assert texts.embeddings.shape == (19, 512)
    torch.testing.assert_close(
        texts.embeddings.norm(dim=1), torch.ones(19), rtol=0, atol=1e-3)


@pytest.mark.parametrize('content, message', [
    ({'embeddings': np.zeros((2, 3))}, r"holds no class texts \(it lacks \['classes'\]"),
    ({'embeddings': np.zeros((2, 3)), 'classes': np.array(['a'])}, r'one finite row per class'),
    ({'embeddings': np.full((1, 3), np.nan), 'classes': np.array(['a'])}, 'finite'),
    ({'embeddings': np.zeros((1, 3)), 'classes': np.array(['b'])}, r"no text for \['a'\]"),
    ({'embeddings': np.zeros((1, 3)), 'classes': np.array([{}], dtype=object)},
     'holds no class texts')])
def test_refuses_another_file(tmp_path, content, message):
    path = tmp_path / 'texts.npz'
    np.savez(path, **content)
    with pytest.raises(ValueError, match=message):
        load_texts(path, ['a'])


def test_refuses_what_is_no_archive(tmp_path):
    path = tmp_path / 'texts.npz'
    path.write_bytes(b'nothing')
    with pytest.raises(ValueError, match='holds no class texts'):
        load_texts(path)
    with pytest.raises(FileNotFoundError, match='make them with .*training.embed_classes'):
        load_texts(tmp_path / 'none.npz')


def test_prompts_are_the_words_or_each_in_each_template():
    assert texts_of(CITYSCAPES, ensemble=False)[6] == ['traffic light']
    ensemble = texts_of(CITYSCAPES, ensemble=True)
    assert len(ensemble) == 19 and len(ensemble[0]) == len(TEMPLATES)
    assert ensemble[13][0] == 'a photo of a car.'


def test_embeds_classes_from_a_released_checkpoint(tmp_path, capsys):
    pytest.importorskip('open_clip')
    state = recipe.state_dict(clip_shapes(64, 1, 49408, 8))
    torch.save({'state_dict': {key: value.half() for key, value in state.items()}, 'meta': {}},
               tmp_path / 'dgtl.pth')
    out = tmp_path / 'texts.npz'
    assert main(['cityscapes', str(out), '--released', str(tmp_path / 'dgtl.pth')]) == 0
    texts = load_texts(out, CITYSCAPES.names)
    assert texts.embeddings.shape == (19, 8)
    assert texts.provenance == 'CLIP inside dgtl.pth, bare class names, not normalised'
    assert '19 classes, 8 wide' in capsys.readouterr().out
    torch.save({'state_dict': {'x': torch.zeros(2)}}, tmp_path / 'other.pth')
    assert main(['cityscapes', str(out), '--released', str(tmp_path / 'other.pth')]) == 1
    assert f'{out} exists; --force overwrites it' in capsys.readouterr().err
    assert main(['cityscapes', str(out), '--released', str(tmp_path / 'other.pth'),
                 '--force']) == 1
    assert 'holds no CLIP text encoder' in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_of_another_kind_is_not_taken_for_a_missing_network(tmp_path, capsys):
    pytest.importorskip('open_clip')
    torch.save({'x': torch.zeros(2)}, tmp_path / 'other.pt')
    (tmp_path / 'noise.pt').write_bytes(bytes(range(256)) * 9)
    for name in ('other.pt', 'noise.pt'):
        assert main(['cityscapes', str(tmp_path / 'x.npz'), '--model', 'RN50',
                     '--pretrained', str(tmp_path / name)]) == 1
        said = capsys.readouterr().err
        assert f'{name} holds no weights of RN50' in said and 'network' not in said
    assert main(['cityscapes', str(tmp_path / 'x.npz'), '--model', 'RN51',
                 '--pretrained', str(tmp_path / name)]) == 1
    assert "open_clip knows no model 'RN51'" in capsys.readouterr().err


def test_embeds_classes_with_open_clip_weights_from_a_file(tmp_path):
    open_clip = pytest.importorskip('open_clip')
    model = open_clip.create_model('RN50')
    torch.save(model.state_dict(), tmp_path / 'weights.pt')
    with torch.no_grad():
        expected = model.eval().encode_text(open_clip.tokenize(list(CITYSCAPES.names)))
    out = tmp_path / 'texts.npz'
    for option, rows, about in (
            ('--bare', torch.nn.functional.normalize(expected, dim=-1), 'unit rows'),
            ('--raw', expected, 'not normalised')):
        assert main(['cityscapes', str(out), '--model', 'RN50', option, '--force',
                     '--pretrained', str(tmp_path / 'weights.pt')]) == 0
        texts = load_texts(out, CITYSCAPES.names)
        torch.testing.assert_close(texts.embeddings, rows, rtol=1e-4, atol=1e-5)
        assert f'RN50 weights.pt, bare words, {about}' in texts.provenance


@pytest.mark.parametrize(('raw', 'length'), [(False, 1.0), (True, 5.0)])
def test_rows_are_unit_means_of_unit_texts_or_plain_means(raw, length, monkeypatch):
    open_clip = pytest.importorskip('open_clip')

    class Encoder(torch.nn.Module):
        def encode_text(self, tokens):  # lengths 5 and 10, directions (3, 4) and (1, 0)
            return torch.tensor([[3.0, 4.0], [10.0, 0.0]])[:len(tokens)]

    monkeypatch.setattr(open_clip, 'create_model', lambda *_, **__: Encoder())
    monkeypatch.setattr(open_clip, 'get_tokenizer', lambda _: lambda row: torch.zeros(len(row)))
    found = embed_with_open_clip([['a'], ['a', 'b']], 'RN50', 'openai', raw)
    assert found[0].norm().item() == pytest.approx(length)
    mean = torch.tensor([6.5, 2.0]) if raw else torch.nn.functional.normalize(
        torch.tensor([0.8, 0.4]), dim=0)
    torch.testing.assert_close(found[1], mean)


@pytest.mark.parametrize(('model', 'tag', 'quick'), [
    ('RN50', 'openai', True), ('ViT-B-16', 'openai', True),
    ('ViT-B-16', 'laion2b_s34b_b88k', False), ('EVA02-L-14', 'merged2b_s4b_b131k', False)])
def test_weights_get_the_activation_they_were_trained_with(model, tag, quick, monkeypatch):
    open_clip = pytest.importorskip('open_clip')
    asked = []

    def create_model(name, pretrained, force_quick_gelu):
        asked.append((name, pretrained, force_quick_gelu))
        raise RuntimeError('no network')

    monkeypatch.setattr(open_clip, 'create_model', create_model)
    suffix = '-quickgelu' if quick else ''
    with pytest.raises(OSError, match=f'--model {model}{suffix} --pretrained FILE'):
        embed_with_open_clip([['a']], model, tag)
    assert asked == [(model, tag, quick)]


def test_unknown_open_clip_weights_are_refused(tmp_path, capsys):
    pytest.importorskip('open_clip')
    assert main(['cityscapes', str(tmp_path / 't.npz'), '--model', 'RN50',
                 '--pretrained', 'nonsense']) == 1
    assert "no weights 'nonsense' for 'RN50'; it has ['openai'" in capsys.readouterr().err
    assert main(['cityscapes', str(tmp_path / 't.npz'), '--model', 'VIT-B/16']) == 1
    assert "knows no model 'VIT-B/16'; near to it are ['ViT-B-16'" in capsys.readouterr().err
