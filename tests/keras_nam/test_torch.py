"""Against PyTorch: twins with each format's module names, random weights, both directions."""

import itertools
import re

import keras
import numpy as np
import pytest

import keras_nam

torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")

from keras_nam import convert  # noqa: E402
from keras_nam.torch_twin import create_twin, largest_difference  # noqa: E402

TOLERANCE = 5e-6
ATTENTIONS = ("", "_nam", "_nam_spatial", "_nam_full", "_se", "_cbam", "_bam", "_eca")
TWINS = [
    *(("official", f"r18w8{attention}") for attention in ATTENTIONS),
    *(("weiaicunzai", f"mbv2w16{attention}") for attention in ATTENTIONS),
    *(("weiaicunzai", f"r18w8{attention}") for attention in ("", "_nam", "_nam_full", "_bam")),
    *((style, f"r34w8{a}") for style in ("official", "weiaicunzai") for a in ("", "_nam")),
    *((style, f"r50w16{a}") for style in ("official", "weiaicunzai") for a in ("", "_nam")),
    ("official", "r50_nam"),
    ("weiaicunzai", "mbv2_nam"),
    *(
        pytest.param(style, arch, marks=pytest.mark.slow)
        for style in ("official", "weiaicunzai")
        for arch in ("r101", "r101_nam")
    ),
]


def random_twin(arch, style, seed=0, **options):
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


def logits_of(twin, images):
    with torch.no_grad():
        return twin.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()


def assert_same_logits(model, twin, size=32):
    images = np.random.default_rng(1).normal(size=(4, size, size, 3)).astype(np.float32)
    theirs = logits_of(twin, images)
    ours = keras.ops.convert_to_numpy(model(images, training=False))
    assert np.abs(ours - theirs).max() < TOLERANCE * np.abs(theirs).max()


def to_tensors(arrays):
    return {key: torch.from_numpy(array) for key, array in arrays.items()}


@pytest.mark.parametrize(("style", "arch"), TWINS)
def test_both_directions(style, arch, tmp_path):
    twin = random_twin(arch, style)
    torch.save(twin.state_dict(), tmp_path / "twin.pth")
    model = keras_nam.create_model(arch)
    assert keras_nam.load_weights(model, tmp_path / "twin.pth").format == style
    assert_same_logits(model, twin)

    back = to_tensors(keras_nam.to_torch_state_dict(model, style))
    assert back.keys() == twin.state_dict().keys()
    for key, tensor in twin.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(back[key], tensor), key
    other = random_twin(arch, style, seed=2)
    other.load_state_dict(back, strict=True)
    assert_same_logits(model, other)


@pytest.mark.parametrize(
    ("style", "arch"),
    [("official", "r50w8_nam"), ("official", "r50w8"), ("weiaicunzai", "mbv2w8_bam")],
)
def test_imagenet_stem(style, arch):
    """The official one is torchvision's resnet50 but for its width."""
    options = {"num_classes": 10, "stem": "imagenet"}
    twin = random_twin(arch, style, image_size=64, **options)
    model = keras_nam.create_model(arch, input_shape=(64, 64, 3), **options)
    keras_nam.load_weights(model, twin.state_dict())
    assert_same_logits(model, twin, size=64)


def test_training_mode_normalizes_alike():
    """By the batch's own statistics, which evaluation mode does not see."""
    twin = random_twin("r18w8_nam", "official").train()
    model = keras_nam.create_model("r18w8_nam")
    keras_nam.load_weights(model, twin.state_dict())
    images = np.random.default_rng(1).normal(size=(8, 32, 32, 3)).astype(np.float32)
    theirs = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).detach().numpy()
    ours = keras.ops.convert_to_numpy(model(images, training=True))
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["twin.safetensors", "twin.pth", "twin.bin"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_files_and_types(tmp_path, name, dtype):
    twin = random_twin("r18w8_nam", "official")
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in twin.state_dict().items()}
    if name.endswith(".safetensors"):
        pytest.importorskip("safetensors.torch").save_file(state, tmp_path / name)
    else:
        torch.save({"state_dict": state}, tmp_path / name)
    model = keras_nam.create_model("r18w8_nam")
    keras_nam.load_weights(model, tmp_path / name)
    back = keras_nam.to_torch_state_dict(model)
    for key, tensor in state.items():
        assert key.endswith("tracked") or torch.equal(torch.from_numpy(back[key]), tensor.float())


def test_a_tensor_that_needs_a_gradient_or_lies_transposed_loads():
    twin = random_twin("r18w8", "official")
    tensors = {
        key: tensor.clone().T.contiguous().T.requires_grad_() if tensor.ndim == 2 else tensor
        for key, tensor in twin.state_dict().items()
    }
    model = keras_nam.create_model("r18w8")
    keras_nam.load_weights(model, tensors)
    assert_same_logits(model, twin)


def test_a_file_from_before_zip_archives(tmp_path):
    twin = random_twin("r18w8", "official")
    torch.save(twin.state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model = keras_nam.create_model("r18w8")
    keras_nam.load_weights(model, tmp_path / "old.pth")
    assert_same_logits(model, twin)


def test_a_whole_pickled_module_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(ValueError, match=r"it imports torch\.nn\.modules\.linear\.Linear"):
        keras_nam.load_weights(keras_nam.create_model("r18w8"), tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("arch", "names"),
    [("r18w8_nam_full", "official"), ("r18w8_cbam", "weiaicunzai"), ("mbv2w8_nam", "official")],
)
def test_the_command_proves_every_step(tmp_path, arch, names, capsys):
    pytest.importorskip("safetensors")
    style = "weiaicunzai" if arch.startswith("mbv2") else names
    torch.save(random_twin(arch, style).state_dict(), tmp_path / "a.pth")
    paths = [
        tmp_path / name for name in ("a.pth", "b.pdparams", "c.safetensors", "d.keras", "e.pt")
    ]
    for source, target in itertools.pairwise(paths):
        status = convert.main([str(source), str(target), "--arch", arch, "--names", names])
        said = capsys.readouterr().out
        assert status == 0
        for path in {source, target}:
            assert path.suffix == ".keras" or re.search(rf"proved: {re.escape(str(path))}", said)
    read = torch.load(paths[-1], weights_only=True)
    for key, tensor in torch.load(paths[0], weights_only=True).items():
        assert key.endswith("num_batches_tracked") or torch.equal(read[key], tensor)


@pytest.mark.parametrize("change", ["weights", "nan"])
def test_the_command_returns_1_where_the_networks_differ(tmp_path, change, monkeypatch, capsys):
    """A loader that puts one array elsewhere, or NaN, must not pass for proved."""
    twin = random_twin("r18w8_nam", "official")
    state = twin.state_dict()
    if change == "nan":
        state["fc.bias"][0] = float("nan")
    torch.save(state, tmp_path / "a.pth")
    if change == "weights":
        import keras_nam.weights as weights

        load = weights.load_weights

        def careless(model, *arguments, **options):
            report = load(model, *arguments, **options)
            variable = model.get_layer("stage3_block2_bn1").gamma
            variable.assign(variable + 0.01)
            return report

        monkeypatch.setattr(weights, "load_weights", careless)
    out = tmp_path / "a.keras"
    assert convert.main([str(tmp_path / "a.pth"), str(out), "--arch", "r18w8_nam"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_the_difference_is_relative_to_the_largest_logit():
    twin = random_twin("r18w8", "official")
    with torch.no_grad():
        twin.fc.weight.zero_()
        twin.fc.bias.fill_(4.0)
    model = keras_nam.create_model("r18w8")
    keras_nam.load_weights(model, twin.state_dict())
    bias = model.get_layer("logits").bias
    bias.assign(bias + 1.0)
    assert largest_difference(model, twin.state_dict(), "official", "r18w8") == 0.25
