"""`gates.py --pictures`: what is drawn, and which input is refused."""

import itertools

import numpy as np
import pytest
from PIL import Image

import keras_nam
from tests.support.networks.gated_networks import network, run_folder
from training import gates, recipes
from training.cli import InputError
from training.data import streams
from training.gating import plots


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_folder(tmp_path_factory.mktemp("runs") / "gated", "nam_full")


@pytest.fixture
def photos(tmp_path):
    """A folder of class folders with two pictures of another size than the network's."""
    rng = np.random.default_rng(2)
    for name in ("red/1.png", "blue/2.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        pixels = rng.integers(0, 256, (50, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


def test_the_picture_has_each_gates_values(run, photos, monkeypatch):
    drawn = []
    draw = plots.gates_on_images
    monkeypatch.setattr(plots, "gates_on_images", lambda *args: (drawn.append(args), draw(*args)))
    before = set(run.iterdir())
    gates.main([str(run), "--pictures", str(photos)])
    assert [path.name for path in (run / "gates").iterdir()] == ["pictures.png"]
    assert set(run.iterdir()) - before == {run / "gates"}
    ((images, captions, values, _),) = drawn
    assert images.shape == (2, 32, 32, 3)
    whole = Image.open(photos / "blue" / "2.png").resize((32, 32), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(images[0], np.asarray(whole))
    recipe, model = recipes.get("fast"), network("nam_full")
    normalized = streams.normalize(images, recipe.mean, recipe.std)
    label = np.asarray(model(normalized))[0].argmax()
    assert captions[0].startswith("2.png\n")
    assert f"class {label}, " in captions[0]
    expected = keras_nam.gate_values(model, normalized)
    assert len(values) == len(expected) == 4
    for found, value in zip(values.values(), expected.values(), strict=True):
        np.testing.assert_allclose(found, value, rtol=0, atol=1e-6)


def test_input_that_is_refused(run, photos, tmp_path):
    def refused(*pictures):
        with pytest.raises(InputError) as caught:
            gates.main(
                [str(run), "--out", str(tmp_path / "out"), "--pictures", *map(str, pictures)]
            )
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    assert "No such file" in refused(tmp_path / "absent.png")
    assert "no pictures" in refused(tmp_path / "empty")
    assert "text.png" in refused(photos / "red" / "1.png", tmp_path / "text.png")
    assert "at most 12" in refused(*7 * [photos])
    with pytest.raises(InputError, match="--images"):
        gates.main([str(run), "--images", "4", "--pictures", str(photos)])
    plain = run_folder(tmp_path / "plain", "se")
    with pytest.raises(InputError, match=r"expected .*NAM"):
        gates.main([str(plain), "--pictures", str(photos)])


def test_the_colours_are_centred_on_one_half(tmp_path):
    """Red above 0.5, blue below, and both as far from white; the colour bar has both ends."""
    images = np.full((1, 8, 8, 3), 128, np.uint8)

    def redness(value):
        values = np.full((1, 4, 4, 2), 0.5)
        values[0, :2] = value
        plots.gates_on_images(images, ["a"], {"stage1_block1_nam": values}, tmp_path / "drawn.png")
        red, _, blue = np.asarray(Image.open(tmp_path / "drawn.png"), int)[..., :3].sum((0, 1)).T
        return red - blue

    neutral, above, below = redness(0.5), redness(0.6), redness(0.4)
    assert above - neutral > 1e5
    assert neutral - below == pytest.approx(above - neutral, rel=0.3)


@pytest.mark.parametrize(("usual", "largest"), [(0.0029, 0.03), (0.001, 0.09)])
def test_the_words_of_few_gates_fit_and_do_not_overlap(tmp_path, figures, usual, largest):
    values = np.full((1, 4, 4, 2), 0.5 + usual)
    values[0, 0, 0] = 0.5 + largest
    images = np.full((1, 8, 8, 3), 128, np.uint8)
    plots.gates_on_images(images, ["a"], {"stage1_block1_nam": values}, tmp_path / "drawn.png")
    (figure,) = figures
    colours = figure.axes[-1]
    boxes = [label.get_window_extent() for label in colours.get_xticklabels()]
    assert len(boxes) >= 3
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))
    words = colours.xaxis.label.get_window_extent()
    assert 0 < words.x0 < words.x1 < figure.bbox.x1
