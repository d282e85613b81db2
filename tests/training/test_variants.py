"""The entries of --archs and --seeds."""

import pytest

from training.cli import InputError
from training.variants import read_seeds, read_variants


def test_an_entry_has_settings_of_its_own_typed_by_their_fields():
    text = "r18w4,r18w4_nam:gamma_penalty=1e-3:gate_gradient=false:weighting=max:epochs=2"
    plain, nam = read_variants(text, "fast", {"epochs": 5, "momentum": 0.8})
    assert (plain.arch, plain.stem, plain.recipe.epochs) == ("r18w4", "cifar", 5)
    assert (plain.recipe.gamma_penalty, plain.recipe.gate_gradient) == (0.0, True)
    assert nam.name == text.partition(",")[2]
    assert nam.arch == "r18w4_nam"
    assert (nam.recipe.gamma_penalty, nam.recipe.gate_gradient) == (1e-3, False)
    assert (nam.recipe.weighting, nam.recipe.epochs, nam.recipe.momentum) == ("max", 2, 0.8)
    assert nam.folder_name == (
        "r18w4_nam-gamma_penalty-1e-3-gate_gradient-false-weighting-max-epochs-2"
    )


def test_stem_and_tuples():
    text = "r18:stem=imagenet:milestones=3+5:std=0.2+0.2+0.3:image_sizes=24+32"
    (variant,) = read_variants(text, "fast", {})
    assert variant.stem == "imagenet"
    assert variant.recipe.milestones == (3, 5)
    assert variant.recipe.std == (0.2, 0.2, 0.3)
    assert variant.configuration()["std"] == [0.2, 0.2, 0.3]
    assert variant.configuration()["image_sizes"] == [24, 32]
    assert variant.folder_name.endswith("image_sizes-24+32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r18,,r18_nam", "empty entry"),
        ("", "empty entry"),
        ("r18,r18_nam,r18", "r18 is there twice"),
        ("r18,r18:gama_penalty=1", "Did you mean 'gamma_penalty'"),
        ("r18:epochs=two", "epochs=two, expected int"),
        ("r18:epochs", "epochs=, expected int"),
        ("r18:gate_gradient=0", "gate_gradient=0, expected true or false"),
        ("r18:gamma_penalty=-1", r"--archs r18:gamma_penalty=-1: --gamma-penalty -1\.0"),
        ("r18:weighting=maxx", "Did you mean 'max'"),
    ],
)
def test_bad_entries(text, message):
    with pytest.raises(InputError, match=message):
        read_variants(text, "fast", {})


def test_seeds():
    assert read_seeds("0,3, 2") == [0, 3, 2]


@pytest.mark.parametrize("text", ["", "0,", "a", "-1", "1.5", "4294967296", "1,1"])
def test_bad_seeds(text):
    with pytest.raises(InputError, match=r"--seeds"):
        read_seeds(text)
