"""Against PyTorch: twins with each format's module names, random weights, both directions."""

import itertools
import re

import keras
import numpy as np
import pytest

import keras_nam
import keras_nam.weights
from keras_nam.attention import ATTENTIONS
from tests.support.networks.small_models import randomize

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from keras_nam import convert  # noqa: E402
from keras_nam.torch_twin import create_twin, largest_difference  # noqa: E402

TOLERANCE = 5e-6
TWINS = [
    ("official", "r18w8"),
    *(("official", f"r18w8_{attention}") for attention in ATTENTIONS),
    *(("weiaicunzai", f"r18w8_{attention}") for attention in ("nam_full", "bam")),
    *(("weiaicunzai", f"mbv2w8{attention}") for attention in ("", "_nam_full", "_bam")),
    ("official", "r50_nam"),
    ("weiaicunzai", "r50w16_se"),
    ("weiaicunzai", "mbv2_nam"),
    *(
        pytest.param(style, arch, marks=pytest.mark.slow)
        for style in ("official", "weiaicunzai")
        for arch in ("r34_nam", "r101_nam")
    ),
]


def random_twin(arch, style="official", seed=0, **options):
    """A twin with random weights and statistics, in evaluation mode."""
    twin = create_twin(arch, style=style, **options).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, tensor in twin.state_dict().items():
        if key.endswith("num_batches_tracked"):
            tensor.fill_(7)
        elif key.endswith("running_var"):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            scale = key.endswith("weight")
            tensor.normal_(float(scale), 0.2 if scale else 0.1, generator=generator)
        else:
            tensor.normal_(0, (1 / tensor[0].numel()) ** 0.5, generator=generator)
    return twin


def assert_same_logits(model, twin, training=False, tolerance=TOLERANCE):
    images = np.random.default_rng(1).normal(size=(4, *model.input_shape[1:])).astype(np.float32)
    with torch.no_grad():
        theirs = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    ours = keras.ops.convert_to_numpy(model(images, training=training))
    assert np.abs(ours - theirs).max() < tolerance * np.abs(theirs).max()


def assert_same_tensors(arrays, tensors):
    assert arrays.keys() == tensors.keys()
    for key, tensor in tensors.items():
        ours = torch.as_tensor(arrays[key])
        assert key.endswith("num_batches_tracked") or torch.equal(ours, tensor.float()), key


@pytest.mark.parametrize(("style", "arch"), TWINS)
def test_both_directions(style, arch):
    twin = random_twin(arch, style)
    model = keras_nam.create_model(arch)
    assert keras_nam.load_weights(model, twin.state_dict()).format == style
    assert_same_logits(model, twin)
    assert_same_tensors(keras_nam.to_torch_state_dict(model, style), twin.state_dict())


@pytest.mark.parametrize(
    ("style", "arch", "stem", "size"),
    [
        ("official", "r50w8_nam", "imagenet", 64),
        ("weiaicunzai", "mbv2w8_bam", "imagenet", 64),
        # Half of an odd size is rounded up: the weights of each position show it.
        ("official", "r18w8_nam_spatial", "cifar", 30),
        ("official", "r18w8_nam_spatial", "imagenet", 50),
        ("weiaicunzai", "mbv2w8_nam_full", "imagenet", 45),
    ],
)
def test_imagenet_stem_and_other_sizes(style, arch, stem, size):
    """The official one is torchvision's resnet50 except for its width and its gates."""
    options = {"num_classes": 10, "stem": stem}
    twin = random_twin(arch, style, image_size=size, **options)
    model = keras_nam.create_model(arch, input_shape=(size, size, 3), **options)
    keras_nam.load_weights(model, twin.state_dict())
    assert_same_logits(model, twin)


def test_training_mode_normalizes_alike(model):
    """By the batch's own statistics, which evaluation mode does not use."""
    twin = random_twin("r18w8_nam").train()
    keras_nam.load_weights(model, twin.state_dict())
    assert_same_logits(model, twin, training=True, tolerance=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_files_and_types(tmp_path, model, dtype):
    state = random_twin("r18w8_nam").state_dict()
    state = {key: t.to(dtype) if t.is_floating_point() else t for key, t in state.items()}
    state["fc.weight"] = state["fc.weight"].T.contiguous().T  # it lies transposed
    torch.save({"state_dict": state}, tmp_path / "twin.pth")
    torch.save(state, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    pytest.importorskip("safetensors.torch").save_file(state, tmp_path / "twin.safetensors")
    for name in ("twin.pth", "old.bin", "twin.safetensors"):
        randomize(model)
        keras_nam.load_weights(model, tmp_path / name)
        assert_same_tensors(keras_nam.to_torch_state_dict(model), state)


def test_tensors_that_need_gradients_load(model):
    twin = random_twin("r18w8_nam")
    keras_nam.load_weights(model, {**twin.state_dict(), **dict(twin.named_parameters())})
    assert_same_logits(model, twin)


def test_a_whole_pickled_module_is_refused_by_name(tmp_path, model):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"imports torch\.nn\.modules\.linear\.Linear"):
        keras_nam.load_weights(model, tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("arch", "names"), [("r18w8_cbam", "weiaicunzai"), ("mbv2w8_nam", "official")]
)
def test_the_command_proves_every_step(tmp_path, arch, names, capsys):
    pytest.importorskip("safetensors")
    paths = [tmp_path / n for n in ("a.pth", "b.pdparams", "c.safetensors", "d.keras", "e.pt")]
    torch.save(random_twin(arch, "weiaicunzai").state_dict(), paths[0])
    for source, target in itertools.pairwise(paths):
        status = convert.main([str(source), str(target), "--arch", arch, "--names", names])
        printed = capsys.readouterr().out
        assert status == 0
        for path in {source, target}:
            assert path.suffix == ".keras" or re.search(rf"proved: {re.escape(str(path))}", printed)
    assert_same_tensors(*(torch.load(paths[i], weights_only=True) for i in (-1, 0)))


@pytest.mark.parametrize("change", ["weights", "nan"])
def test_the_command_returns_1_where_the_networks_differ(tmp_path, change, monkeypatch, capsys):
    """A loader that changes one array, or NaN, must not pass as proved."""
    state = random_twin("r18w8_nam").state_dict()
    if change == "nan":
        state["fc.bias"][0] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    if change == "weights":
        load = keras_nam.weights.load_weights

        def careless(model, *arguments, **options):
            report = load(model, *arguments, **options)
            variable = model.get_layer("stage3_block2_bn1").gamma
            variable.assign(variable + 0.01)
            return report

        monkeypatch.setattr(keras_nam.weights, "load_weights", careless)
    out = tmp_path / "a.keras"
    assert convert.main([str(tmp_path / "a.pth"), str(out), "--arch", "r18w8_nam"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_the_difference_is_relative_to_the_largest_logit(model):
    twin = random_twin("r18w8_nam")
    with torch.no_grad():
        twin.fc.weight.zero_()
        twin.fc.bias.fill_(4.0)
    keras_nam.load_weights(model, twin.state_dict())
    bias = model.get_layer("logits").bias
    bias.assign(bias + 1.0)
    assert largest_difference(model, twin.state_dict(), "official", "r18w8_nam") == 0.25
