"""`--init`: which weights a network begins with, and what `config.json` says of them."""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_nam
from tests.support.networks import small_network
from tests.support.networks.small_models import randomize
from tests.support.small_run import run
from training import recipes
from training.cli import InputError
from training.data import datasets, streams
from training.fitting import initial
from training.runs import files

STATISTICS = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def save(model, path):
    """Writes a model's weights in the format of the path's suffix, or as a run folder."""
    arrays = keras_nam.to_torch_state_dict(model)
    if path.suffix == ".npz":
        np.savez(path, **arrays)
    elif path.suffix == ".safetensors":
        save_file(arrays, path)
    elif path.suffix == ".keras":
        model.save(path)
    else:
        path.mkdir()
        model.save(path / "best.keras")
        config = {"arch": model.name, "stem": "cifar", "recipe_settings": STATISTICS}
        files.write_json(path / files.CONFIG, config)
    return str(path)


def network(arch, classes=10, **options):
    return keras_nam.create_model(arch, classes, **options)


def saved(path, arch, classes=10, **options):
    """Writes the random weights of a network; returns it and the path."""
    model = network(arch, classes, **options)
    randomize(model)
    return model, save(model, path)


def values(model, without=()):
    return {v.path: np.array(v) for v in model.variables if v.path.partition("/")[0] not in without}


@pytest.mark.parametrize(
    ("name", "classes"), [("w.npz", 10), ("w.keras", 7), ("w.safetensors", 7), ("run", 7)]
)
def test_weights_of_every_source(tmp_path, name, classes):
    """Another number of classes replaces the classifier, and nothing else."""
    theirs, path = saved(tmp_path / name, "r18w4_nam")
    model = network("r18w4_nam", classes)
    before = values(model)
    found = initial.load(model, path)
    replaced = [] if classes == 10 else ["logits"]
    assert (found["source"], found["replaced"]) == (path, replaced)
    assert (found["missing"], found["doubled_before"], found["unused"]) == ([], [], [])
    expected = values(theirs) | {k: before[k] for k in before if k.startswith((*replaced, "-"))}
    after = values(model)
    assert after.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(after[key], value, key)
    assert found["mean"] == (STATISTICS["mean"] if name == "run" else None)


def test_the_statistics_of_the_pixels(tmp_path):
    """A run's, also of a file in its folder; ImageNet's for a classifier of 1,000 classes."""
    _, folder = saved(tmp_path / "run", "r18w4")
    for source in (folder, f"{folder}/best.keras"):
        found = initial.load(network("r18w4"), source)
        assert {key: found[key] for key in STATISTICS} == STATISTICS
    _, path = saved(tmp_path / "w.npz", "r18w4", 1000)
    for classes in (10, 1000):
        found = initial.load(network("r18w4", classes), path)
        assert found["mean"] == recipes.IMAGENET_MEAN
        assert found["std"] == recipes.IMAGENET_STD
    _, path = saved(tmp_path / "other.npz", "r18w4", 10)
    assert initial.load(network("r18w4", 1000), path)["mean"] is None


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The file of a briefly trained network, images, and its logits in inference and training."""
    model = network("r18w16")
    recipe = recipes.get("fast")
    stream = streams.training_stream(
        datasets.load("synthetic").train, 64, recipe.mean, recipe.std, classes=10
    )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    # Tracing takes longer than these steps.
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss, run_eagerly=True)
    model.fit(stream, steps_per_epoch=6, verbose=0, shuffle=False)
    images = np.concatenate([images for images, _ in stream.take(2).as_numpy_iterator()])
    normalizations = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    for layer in normalizations:
        layer.momentum = 0.0  # the statistics become the next batch's
    model(images, training=True)
    for layer in normalizations:
        layer.momentum = 0.9
    path = save(model, tmp_path_factory.mktemp("trained") / "w.npz")
    images = images[:64]
    return path, images, logits(model, images), logits(model, images, training=True)


def logits(model, images, **arguments):
    return keras.ops.convert_to_numpy(model(images, **arguments))


def difference(ours, theirs):
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
    ("attention", "gain", "doubled"),
    [("nam", 1.0, 8), ("nam", 2.0, 0), ("nam_spatial", 1.0, 8), ("nam_full", 1.5, 8)],
)
def test_new_gates_keep_the_function(trained, attention, gain, doubled):
    path, images, expected, in_training = trained
    model = network(f"r18w16_{attention}", gain=gain)
    found = initial.load(model, path)
    assert (len(found["doubled_before"]), len(found["missing"])) == (doubled, 8)
    assert difference(logits(model, images), expected) < 0.01
    # A training step begins with the statistics of its batch.
    assert difference(logits(model, images, training=True), in_training) < 0.01


@pytest.mark.parametrize("attention", ["nam", "nam_spatial"])
def test_one_of_two_gates_is_new(tmp_path, trained, attention):
    path, images, expected, _ = trained
    half = network(f"r18w16_{attention}")
    initial.load(half, path)
    full = network("r18w16_nam_full")
    initial.load(full, save(half, tmp_path / "half.npz"))
    assert difference(logits(full, images), expected) < 0.01


def test_spatial_gates_of_another_image_size(tmp_path, trained):
    """They are new, but the file's network has such gates: nothing is doubled a second time."""
    path, *_ = trained
    small, ours, expected = (
        network("r18w16_nam_spatial", input_shape=(size, size, 3)) for size in (32, 48, 48)
    )
    initial.load(small, path)
    initial.load(expected, path)
    found = initial.load(ours, save(small, tmp_path / "small.npz"))
    assert len(found["missing"]) == 8
    assert found["doubled_before"] == []
    images = np.random.default_rng(0).normal(size=(8, 48, 48, 3)).astype("float32")
    assert difference(logits(ours, images), logits(expected, images)) < 1e-5


@pytest.mark.slow
def test_weights_of_torchvision(tmp_path):
    """The twin has its names: the file gives the logits of PyTorch, and brings ImageNet's mean."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch, which is not installed")
    from keras_nam.torch_twin import create_twin

    torch.manual_seed(0)
    twin = create_twin("r50", 1000, 224, "imagenet")
    twin(torch.randn(4, 3, 224, 224))  # moves the statistics
    twin.eval()
    torch.save(twin.state_dict(), tmp_path / "resnet50.pth")
    model = network("r50", 1000, input_shape=(224, 224, 3), stem="imagenet")
    found = initial.load(model, str(tmp_path / "resnet50.pth"))
    assert (found["format"], found["missing"], found["unused"]) == ("official", [], [])
    assert found["mean"] == recipes.IMAGENET_MEAN
    images = np.random.default_rng(1).normal(size=(2, 224, 224, 3)).astype("float32")
    with torch.no_grad():
        expected = twin(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert difference(logits(model, images), expected) < 5e-6


def test_another_attention_is_unused(tmp_path):
    """Its network has another function without it, so nothing is doubled."""
    theirs, path = saved(tmp_path / "w.npz", "r18w4_se")
    model = network("r18w4_nam")
    found = initial.load(model, path)
    assert len(found["missing"]) == 8
    assert found["unused"]
    assert found["doubled_before"] == []
    ours, others = values(model), values(theirs)
    key = "stage1_block1_bn2/gamma"
    np.testing.assert_array_equal(ours[key], others[key])
    lines = " ".join(initial.describe(found))
    assert "unused" in lines
    assert "new" in lines


@pytest.mark.parametrize(
    ("arch", "options", "ours", "expected"),
    [
        ("r18w8", {}, "r34w8", "--arch r18w8 --stem cifar"),
        ("r18w8_nam", {}, "r18w16_nam", "--arch r18w8 --stem cifar"),
        ("r18w8", {"stem": "imagenet"}, "r18w8_nam", "--arch r18w8 --stem imagenet"),
        pytest.param("r50w8", {}, "r18w8", "--arch r50w8 --stem cifar", marks=pytest.mark.slow),
        pytest.param("mbv2w8", {}, "r18w8", "--arch mbv2w8 --stem cifar", marks=pytest.mark.slow),
    ],
)
def test_another_network_names_the_one_that_fits(tmp_path, arch, options, ours, expected):
    _, path = saved(tmp_path / "w.npz", arch, **options)
    with pytest.raises(InputError, match=expected):
        initial.load(network(ours), path)


def test_a_run_of_another_network_is_named(tmp_path):
    _, path = saved(tmp_path / "run", "r18w8_nam")
    with pytest.raises(InputError, match="--arch r18w8_nam --stem cifar"):
        initial.load(network("r18w16_nam"), path)


def test_no_weights(tmp_path):
    (tmp_path / "w.pth").write_bytes(b"no weights")
    (tmp_path / "empty").mkdir()
    for name in ("w.pth", "empty", "missing"):
        with pytest.raises(InputError, match=f"--init .*{name}") as refused:
            initial.load(network("r18w4"), str(tmp_path / name))
        assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("lean")
def test_a_training_from_weights(tmp_path, capsys):
    """`config.json` says what was loaded, and a resumed run does not need the file."""
    model = small_network.initial_model(None, 7)
    for variable in model.variables:
        variable.assign(np.linspace(0.5, 1.5, variable.numpy().size).reshape(variable.shape))
    path = save(model, tmp_path / "weights")
    folder, more = tmp_path / "run", ["--init", path, "--epochs", "1", "--learning-rate", "1e-9"]
    run(folder, *more)
    config = json.loads((folder / files.CONFIG).read_text())
    assert config["init"]["source"] == path
    assert config["init"]["replaced"] == ["logits"]
    assert config["init"]["loaded"] == 9
    assert {key: config["recipe_settings"][key] for key in STATISTICS} == STATISTICS
    kernel = keras.saving.load_model(folder / "last.keras").get_layer("stem_conv").kernel
    np.testing.assert_allclose(kernel, model.get_layer("stem_conv").kernel, rtol=0, atol=1e-5)
    assert "The classifier is new" in capsys.readouterr().out

    (tmp_path / "weights" / "best.keras").unlink()
    (folder / "result.json").unlink()
    run(folder, *more, "--resume")
    with pytest.raises(InputError, match="init"):
        run(folder, *more[2:], "--resume")
    with pytest.raises(InputError, match="--init"):
        run(tmp_path / "other", *more)
    assert not (tmp_path / "other").exists()
