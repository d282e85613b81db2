"""The entries of --archs and --seeds."""

import pytest

from training import jobs, recipes
from training.cli import InputError
from training.comparing.variants import folder_name, read_seeds, read_variants


def read(text, **settings):
    return read_variants(text, jobs.Job("", "fast", recipes.get("fast", **settings)))


def test_an_entry_has_its_own_settings_typed_by_their_fields():
    text = "r18w4,r18w4_nam:gamma_penalty=1e-3:gate_gradient=false:weighting=max:epochs=2"
    variants = read(text, epochs=5, momentum=0.8)
    plain, nam = variants.values()
    assert (plain.arch, plain.stem, plain.recipe.epochs) == ("r18w4", None, 5)
    assert (plain.recipe.gamma_penalty, plain.recipe.gate_gradient) == (0.0, True)
    assert list(variants) == list(text.partition(",")[::2])
    assert nam.arch == "r18w4_nam"
    assert (nam.recipe.gamma_penalty, nam.recipe.gate_gradient) == (1e-3, False)
    assert (nam.recipe.weighting, nam.recipe.epochs, nam.recipe.momentum) == ("max", 2, 0.8)
    assert folder_name(text.partition(",")[2]) == (
        "r18w4_nam-gamma_penalty-1e-3-gate_gradient-false-weighting-max-epochs-2"
    )


def test_stem_and_tuples():
    text = "r18:stem=imagenet:milestones=3+5:std=0.2+0.2+0.3:progressive_sizes=24+32"
    ((name, job),) = read(text).items()
    assert job.stem == "imagenet"
    assert job.recipe.milestones == (3, 5)
    assert job.as_config()["recipe_settings"]["std"] == [0.2, 0.2, 0.3]
    assert job.as_config()["recipe_settings"]["progressive_sizes"] == [24, 32]
    assert folder_name(name).endswith("progressive_sizes-24+32")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("r18,,r18_nam", "empty entry"),
        ("", "empty entry"),
        ("r18,r18_nam,r18", "r18 is given twice"),
        ("r18,r18:gama_penalty=1", "Did you mean 'gamma_penalty'"),
        ("r18:stam=cifar", "Did you mean 'stem'"),
        ("r18:stem=cfar", "Did you mean 'cifar'"),
        ("r18:epochs=two", "epochs=two, expected int"),
        ("r18:epochs", "epochs=, expected int"),
        ("r18:milestones=1+b", "expected int"),
        ("r18:gate_gradient=0", "gate_gradient=0, expected true or false"),
        ("r18_nam:gamma_penalty=-1", r"--archs r18_nam:gamma_penalty=-1: --gamma-penalty -1\.0"),
        ("r18_nam:weighting=maxx", "Did you mean 'max'"),
    ],
)
def test_bad_entries(text, message):
    with pytest.raises(InputError, match=message):
        read(text)


def test_seeds():
    assert read_seeds("0,3, 2") == [0, 3, 2]


@pytest.mark.parametrize("text", ["", "0,", "a", "-1", "1.5", "4294967296", "1,1"])
def test_bad_seeds(text):
    with pytest.raises(InputError, match=r"--seeds"):
        read_seeds(text)
