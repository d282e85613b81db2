"""The page in Chromium: its logits, its pixels, its controls, and what it says of bad files."""

import base64
import io
import json
import re
import struct
import zlib

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from export.runtime.local_models import OnnxModel
from export.targets.page import graph, page, runtime
from export.verification.limits import LIMITS
from export.verification.source import open_source
from tests.support import browser, random_run
from tests.support.networks import toys
from training.cli import InputError
from training.data import pictures
from training.data.pictures import Resize

PICTURES = 20
# float16: some roundings of logits up to 12; its operators are computed in float32 on both sides.
TOLERANCES = {"float32": 5e-5, "float16": 0.02}


@pytest.fixture(scope="module")
def web_runtime():
    """Paths of ONNX Runtime Web, installed by npm."""
    if browser.CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    try:
        return runtime.find()[0].parent
    except InputError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def open_page(web_runtime):
    """Function that opens a page in the browser, waits until it is ready, and returns its tab."""
    with browser.opened() as open_tab:

        def open_page(path):
            tab = open_tab(path.as_uri())
            tab.run("page.ready")
            return tab

        yield open_page


@pytest.fixture(scope="module")
def written_page(web_runtime, paths, source, tmp_path_factory):
    """The page of r18w4_nam in all precisions, with its gammas."""
    gammas = {
        layer.name: np.abs(layer.gamma).tolist()
        for layer in source.run.model.layers
        if layer.name.endswith("_nam")
    }
    examples = page.examples(source, 2)
    folder = tmp_path_factory.mktemp("page")
    return page.write(folder, paths, "r18w4_nam", gammas, examples, web_runtime)


@pytest.fixture(scope="module")
def tab(open_page, written_page):
    return open_page(written_page)


def text(tab, name):
    return tab.run(f"document.getElementById('{name}').textContent")


def in_base64(content):
    return f"Uint8Array.from(atob('{base64.b64encode(content).decode()}'), c => c.charCodeAt(0))"


def check_logits(tab, paths, images):
    """Compares what a page computes of images, in each precision, with ONNX Runtime in Python."""
    rows = tab.run(
        f"""(async () => {{
            const all = {in_base64(images.tobytes())}, size = {images[0].size}, found = {{}};
            for (const model of page.models) {{
                found[model.file] = [];
                for (let at = 0; at < all.length; at += size) {{
                    const image = Float32Array.from(all.subarray(at, at + size));
                    found[model.file].push([...(await model.run(image)).logits]);
                }}
            }}
            return found;
        }})()"""
    )
    assert set(rows) == {path.name for path in paths}
    for path in paths:
        expected, found = OnnxModel(path).predict(images).logits, np.array(rows[path.name])
        precision = graph.precision(onnx.load(path))
        if precision == "int8":  # its sums saturate on some CPUs, and not in WebAssembly
            assert divergence(expected, found) < LIMITS["int8"].kl
        else:
            np.testing.assert_allclose(found, expected, atol=TOLERANCES[precision])


def divergence(expected, found):
    """Returns the mean Kullback–Leibler divergence of the probabilities, nats."""
    logs = [rows - np.log(np.exp(rows).sum(-1, keepdims=True)) for rows in (expected, found)]
    return (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean()


def test_it_opens_checks_itself_and_asks_for_nothing(tab, written_page):
    assert "gives the same answers as Python" in text(tab, "status")
    assert tab.run("document.querySelectorAll('#checks .good').length") == 4
    assert tab.addresses() == [written_page.as_uri()]
    assert tab.complaints() == []
    assert tab.run("document.querySelectorAll('#answers li').length") == 3 * 5
    assert tab.run("document.querySelectorAll('#gates li').length") == 8


def test_the_logits_of_twenty_pictures(tab, paths, source):
    check_logits(tab, paths, source.dataset.test.images[:PICTURES])


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["r18w4_nam_full", "r18w4_cbam", "r18w4_bam", "r18w4_eca"])
def test_the_logits_of_other_attentions(arch, written, open_page, web_runtime, tmp_path):
    source = open_source(random_run.make(tmp_path / "run", arch))
    paths = written(source)
    tab = open_page(page.write(tmp_path / "page", paths, arch, runtime_folder=web_runtime))
    assert tab.complaints() == []
    images = source.dataset.test.images[:PICTURES]
    check_logits(tab, paths, images)
    before, after = tab.run(
        """(async () => {
            const model = page.models[0], before = [...model.trained.logits];
            document.getElementById("half").click();
            await page.update();
            return [before, [...model.result.logits]];
        })()"""
    )
    assert np.abs(np.subtract(before, after)).max() > 0.01


@pytest.mark.parametrize(("largest", "reverse"), [("", False), ("1", True)])
def test_the_slider_closes_channels_by_gamma(tab, written_page, paths, source, largest, reverse):
    found = tab.run(
        f"""(async () => {{
            document.getElementById("largest").value = "{largest}";
            document.getElementById("share").value = 50;
            await page.update();
            return [...page.models[0].result.probabilities];
        }})()"""
    )
    (path,) = [path for path in paths if path.name == "model.onnx"]
    model = graph.with_gates(onnx.load(path))
    feeds = graph.neutral(model)
    for gate in graph.gates(model):
        sizes = np.abs(source.run.model.get_layer(gate.name).gamma)
        order = np.argsort(sizes)[:: -1 if reverse else 1]
        feeds[f"{gate.name}/factor"][0, order[: len(order) // 2]] = 0
    session = onnxruntime.InferenceSession(model.SerializeToString())
    feeds["image"] = page.examples(source, 1)[0].pixels[None].astype(np.float32)
    (expected,) = session.run(["probabilities"], feeds)
    np.testing.assert_allclose(found, expected[0], atol=1e-5)
    assert "50%" in text(tab, "share-text")
    assert "changed" in text(tab, "changed")
    tab.run("document.querySelector('[type=reset]').click()")
    wait_for(tab, "changed", "gates are as trained")
    assert tab.run("page.models[0].result === page.models[0].trained")


def wait_for(tab, name, words):
    """Waits until an element's text has some words."""
    tab.run(
        f"""new Promise((resolve) => (function look() {{
            if (document.getElementById("{name}").textContent.includes("{words}")) resolve();
            else setTimeout(look, 10);
        }})())"""
    )


def show_the_first_example(tab):
    tab.run("document.querySelector('#examples button').click()")
    wait_for(tab, "original-text", "32 × 32")
    tab.run("page.update()")
    assert text(tab, "error") == ""


def test_a_block_s_own_switch(tab):
    before = tab.run("[...page.models[0].trained.probabilities]")
    tab.run("document.querySelector('#gates input').click()")
    wait_for(tab, "changed", "gates are changed")
    one = tab.run("[...page.models[0].result.probabilities]")
    tab.run("document.getElementById('half').click()")
    tab.run("page.update()")
    every = tab.run("[...page.models[0].result.probabilities]")
    assert np.abs(np.subtract(one, before)).max() > 1e-4
    assert np.abs(np.subtract(every, one)).max() > 1e-4
    offsets = tab.run("page.models[0].changes.map(({ offset }) => Math.min(...offset))")
    assert offsets == [0.5] * 8
    tab.run("document.querySelector('[type=reset]').click()")
    wait_for(tab, "changed", "gates are as trained")


def encoded(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def sixteen_bits(pixels):
    """Returns a PNG of 16 bits a channel, which Pillow does not write."""

    def chunk(kind, data):
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def formats():
    """Returns name -> an encoded picture, 100×75 pixels."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:75, :100]
    pixels = np.stack([127 + 120 * np.sin(columns / 9 + rows / 13), columns * 2.5, rows * 3], -1)
    pixels = pixels.astype(np.uint8)
    pixels[20:50, 30:60] = rng.integers(0, 256, (30, 30, 3))
    image = Image.fromarray(pixels)
    transparent = image.copy()
    transparent.putalpha(Image.fromarray(((columns * 3 + rows) % 256).astype(np.uint8)))
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    turned = {}
    for orientation in (5, 6, 9):  # 9 is none
        turned[orientation] = Image.Exif()
        turned[orientation][0x0112] = orientation
    deep = rng.integers(0, 65536, (75, 100, 3), np.uint16)
    return {
        "PNG": encoded(image),
        "PNG, grey": encoded(image.convert("L")),
        "PNG, palette with transparency": encoded(palette, transparency=3),
        "PNG, transparent": encoded(transparent),
        "PNG, 1 bit": encoded(image.convert("1")),
        "PNG, grey of 16 bits": encoded(Image.fromarray(deep[..., 0])),
        "PNG, 16 bits": sixteen_bits(deep),
        "PNG, turned": encoded(image, exif=turned[6]),
        "JPEG": encoded(image, "JPEG", subsampling=0),
        "JPEG, chroma halved": encoded(image, "JPEG", subsampling=2),
        "JPEG, progressive": encoded(image, "JPEG", progressive=True),
        "JPEG, CMYK": encoded(image.convert("CMYK"), "JPEG"),
        "JPEG, turned": encoded(image, "JPEG", exif=turned[5]),
        "JPEG, large": encoded(image.resize((1000, 750)), "JPEG"),
        "WebP": encoded(image, "WEBP"),
        "WebP, lossless and transparent": encoded(transparent, "WEBP", lossless=True),
        "WebP, turned": encoded(image, "WEBP", exif=turned[6]),
        "WebP, wrong orientation": encoded(image, "WEBP", exif=turned[9]),
        "WebP, turned and transparent": encoded(transparent, "WEBP", exif=turned[5]),
        "GIF, animated": encoded(image, "GIF", save_all=True, append_images=[palette]),
        "GIF, transparent": encoded(palette, "GIF", transparency=3),
        "BMP": encoded(image, "BMP"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("rule", [Resize(32, 32), Resize(40, 24, 0.875)])
def test_pictures_are_read_as_in_python(tab, rule):
    for name, content in formats().items():
        found = tab.run(
            f"""page.read(new Blob([{in_base64(content)}]), {{
                height: {rule.height}, width: {rule.width},
                crop_fraction: {rule.crop_fraction or "null"}
            }}).then(({{ input }}) => [...page.rgb(input)])"""
        )
        expected = pictures.read(content, rule).astype(int)
        assert np.abs(np.reshape(found, expected.shape) - expected).max() <= 1, name


def test_files_that_are_no_pictures(tab):
    image = Image.new("RGB", (32, 32))
    for content, words in (
        (encoded(image, "TIFF"), "TIFF file"),
        (encoded(image, "JPEG")[:300], "damaged"),
        (b"RIFF\0\0\0\0WEBPEXIF" + b"\xff" * 20, "damaged"),
        (b"RIFF\0\0\0\0WEBPJUNK\xf7" + b"\xff" * 20, "damaged"),  # a chunk of 4 GiB
        (b"no picture", "is not a picture"),
        (b"", "is not a picture"),
    ):
        tab.run(f"page.show(new Blob([{in_base64(content)}]), 'bad')")
        assert words in text(tab, "error")
        assert tab.run("document.getElementById('error').hidden") is False
    show_the_first_example(tab)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data }))",
        "document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))",
        """const file = document.getElementById("file");
        file.files = data.files;
        file.dispatchEvent(new Event("change"))""",
    ],
)
def test_a_picture_is_dropped_pasted_or_chosen(tab, way):
    picture = in_base64(encoded(Image.new("RGB", (40, 30), "red")))
    tab.run(
        f"""(() => {{
            const data = new DataTransfer();
            data.items.add(new File([{picture}], "mine.png", {{ type: "image/png" }}));
            {way};
        }})()"""
    )
    wait_for(tab, "original-text", "40 × 30")
    show_the_first_example(tab)


@pytest.mark.slow
def test_the_last_of_several_pictures_is_shown(tab, source):
    """The first takes longer to read."""
    other, last = (Image.fromarray(page.examples(source, 2)[n].pixels) for n in (1, 0))
    files = map(in_base64, map(encoded, (other.resize((2000, 1500)), other, last)))
    shows = ", ".join(f"page.show(new Blob([{file}]), 'x')" for file in files)
    expected = tab.run("[...page.models[0].trained.logits]")
    tab.run(f"Promise.all([{shows}])")
    tab.run("page.update()")
    assert text(tab, "error") == ""
    assert text(tab, "original-text") == "x, 32 × 32"
    np.testing.assert_allclose(tab.run("[...page.models[0].trained.logits]"), expected, atol=1e-5)


def test_the_error_of_an_earlier_picture_is_not_shown(tab, source):
    picture = in_base64(encoded(Image.fromarray(page.examples(source, 1)[0].pixels)))
    tab.run(
        f"""(async () => {{
            let fail;
            const read = () => new Promise((_, reject) => (fail = reject));
            const earlier = page.show({{ slice: () => ({{ arrayBuffer: read }}) }}, "earlier");
            await page.show(new Blob([{picture}]), "later");
            fail(new Error("of the earlier one"));
            await earlier;
        }})()"""
    )
    assert text(tab, "original-text") == "later, 32 × 32"
    assert text(tab, "error") == ""


def test_a_cut_model_and_wrong_ones(open_page, written_page, tmp_path):
    content = written_page.read_text("utf-8")
    bad = re.sub(r'(payload\("model.float16", ".{4000}).*?"', r'\1"', content)
    start, middle, end = re.split(r'(?<=id="description">)(.*?)(?=</script>)', bad, maxsplit=1)
    description = json.loads(middle)
    float32, int8, _ = description["models"]
    float32["logits"] = [logit + 1e-3 for logit in float32["logits"]]  # of equal probabilities
    int8["logits"].reverse()
    path = tmp_path / "index.html"
    path.write_text(start + json.dumps(description) + end, encoding="utf-8")
    tab = open_page(path)
    assert "No model gives the expected answers" in text(tab, "error")
    assert text(tab, "checks").count("FAILED") == 3
    assert "model.float16 is damaged or cut short" in text(tab, "checks")


@pytest.mark.slow
def test_a_cut_runtime(open_page, written_page, tmp_path):
    content = written_page.read_text("utf-8")
    path = tmp_path / "index.html"
    path.write_text(re.sub(r'(payload\("runtime", ".{4000}).*?"', r'\1"', content))
    tab = open_page(path)
    assert "runtime is damaged or cut short" in text(tab, "error")
    assert text(tab, "status") == ""


def test_pictures_of_224(open_page, web_runtime, tmp_path):
    """They have more values than a function of JavaScript takes arguments."""
    size, path = 224, tmp_path / "model.onnx"
    toys.save_onnx(path, size=size)
    model = onnx.load(path)
    model.metadata_props.add(key="picture", value=json.dumps(Resize(size, size).as_json()))
    onnx.save(model, path)
    tab = open_page(page.write(tmp_path, [path], "toy", runtime_folder=web_runtime))
    assert (text(tab, "error"), tab.complaints()) == ("", [])
    assert "gives the same answers as Python" in text(tab, "status")


@pytest.mark.slow
def test_large_models_in_a_folder(open_page, paths, web_runtime, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "LARGE", 0)
    written = page.write(tmp_path, paths, "r18w4_nam", runtime_folder=web_runtime)
    (tmp_path / "model.int8.payload.js").unlink()
    tab = open_page(written)
    assert "1 of the checks" in text(tab, "status")
    assert "model.int8 is missing" in text(tab, "checks")
    assert tab.run("page.models.map(({ precision }) => precision)") == ["float32", "float16"]
    assert {address.rpartition("/")[0] for address in tab.addresses()} == {tmp_path.as_uri()}
    assert "γ is not known" in text(tab, "note")
