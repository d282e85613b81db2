"""The page's files, without a browser; and bad usage."""

import json
import re

import onnx
import pytest

from export import to_page
from export.targets.page import page, runtime
from training.cli import FailedError, InputError


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A folder with files named as ONNX Runtime Web's, which no browser opens."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in runtime.FILES:
        (folder / name).write_text(name)
    return str(folder)


def description_of(text):
    return json.loads(re.search(r'id="description">(.*?)</script>', text, re.S)[1])


def test_a_run_s_page(exported, stand_in, tmp_path, capsys, monkeypatch):
    """Its int8 file is missing, and the one that is made is not verified."""
    called = []

    def to_onnx(arguments):
        called.append(arguments)
        raise FailedError("top-1 dropped")

    monkeypatch.setattr(to_page.to_onnx, "main", to_onnx)
    output = ["--output", str(tmp_path), "--runtime", stand_in]
    to_page.main(["--run", str(exported), "--examples", "2", *output])
    assert called == [["--run", str(exported), "--precision", "int8"]]
    printed = capsys.readouterr().out
    assert "without int8: top-1 dropped" in printed
    assert f"page: {tmp_path}/index.html" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
    text = (tmp_path / "index.html").read_text("utf-8")
    assert "<title>r18w4_nam" in text
    assert "MIT License" in text
    assert "default-src 'none'" in text
    description = description_of(text)
    assert len(description["class_names"]) == 10
    assert len({each["name"] for each in description["examples"]}) == 2
    (model,) = description["models"]
    assert model["report"]["verdict"] == "verified"
    assert all(len(gate["gamma"]) == gate["shape"][0] for gate in model["gates"])


def test_nothing_of_it_has_an_address(paths, stand_in, tmp_path):
    model, name = onnx.load(paths[0]), "</script><b>"
    (names,) = [entry for entry in model.metadata_props if entry.key == "class_names"]
    names.value = json.dumps([name, *json.loads(names.value)[1:]])
    onnx.save(model, path := tmp_path / "telling.onnx")
    text = page.write(tmp_path, [path], "a & <b>", runtime_folder=stand_in).read_text("utf-8")
    assert description_of(text)["class_names"][0] == name
    assert "<title>a &amp; &lt;b&gt;" in text
    assert re.findall(r'(?:src|href)="(?!data:)', text) == []
    assert re.findall("https?:", text) == []
    assert str(tmp_path) not in text


def test_large_models_are_beside_it(paths, stand_in, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(page, "LARGE", 0)
        written = page.write(tmp_path, paths, "r18w4_nam", runtime_folder=stand_in)
    names = {f"{name}.payload.js" for name in ("runtime", *map("model.{}".format, page.PRECISIONS))}
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", *names}
    assert {name in written.read_text("utf-8") for name in names} == {True}
    page.write(tmp_path, paths, "r18w4_nam", runtime_folder=stand_in)
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]


def test_a_file_alone(paths, stand_in, tmp_path):
    (path,) = [path for path in paths if path.name == "model.int8.onnx"]
    to_page.main(["--onnx", str(path), "--output", str(tmp_path), "--runtime", stand_in])
    (model,) = description_of((tmp_path / "index.html").read_text("utf-8"))["models"]
    assert (model["precision"], model["report"]) == ("int8", None)
    assert {gate["gamma"] for gate in model["gates"]} == {None}


def test_a_file_for_any_size(float32_onnx, stand_in, tmp_path):
    """The page has images of the size in its rule."""
    model = onnx.ModelProto()
    model.CopyFrom(float32_onnx)
    for axis in (1, 2):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"any{axis}"
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "model.onnx")
    to_page.main(["--onnx", str(tmp_path / "model.onnx"), "--runtime", stand_in])
    (shown,) = description_of((tmp_path / "page" / "index.html").read_text("utf-8"))["models"]
    assert [gate["shape"][1] for gate in shown["gates"]] == [32, 32, 16, 16, 8, 8, 4, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no rule", "does not say how pictures are resized"),
        ("another report", "is the report of another file than model.onnx"),
        ("cut", "is not a valid ONNX model"),
        ("missing", "expected a file that export/to_onnx.py wrote"),
    ],
)
def test_bad_files(float32_onnx, stand_in, tmp_path, change, message):
    model = onnx.ModelProto()
    model.CopyFrom(float32_onnx)
    if change == "no rule":
        del model.metadata_props[:]
    content = model.SerializeToString()
    path = tmp_path / "model.onnx"
    if change != "missing":
        path.write_bytes(content[:1000] if change == "cut" else content)
    if change == "another report":
        (tmp_path / "verification.json").write_text('{"sha256": "0"}')
    with pytest.raises(InputError, match=message):
        to_page.main(["--onnx", str(path), "--runtime", stand_in])
    assert not (tmp_path / "page").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "-1"], "--examples -1: expected 0 or more"),
        (["--run", "nowhere"], "nowhere is not a finished run"),
        (["--run", "one", "--onnx", "two"], "not allowed with"),
        (["--onnx", __file__, "--examples", "2"], "--examples is for a run"),
        (["--onnx", __file__, "--data-dir", "x"], "--data-dir is for a run"),
    ],
)
def test_bad_usage(stand_in, arguments, message):
    with pytest.raises(InputError, match=message):
        to_page.main([*arguments, "--runtime", stand_in])


def test_the_runtime_is_missing(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=rf"{tmp_path} does not hold .*--runtime"):
        to_page.main(["--runtime", str(tmp_path)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"npm is not installed.*--runtime"):
        to_page.main([])
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(InputError, match=r"npm could not install onnxruntime-web.*no network"):
        to_page.main([])


def test_the_lockfile_pins_the_runtime():
    lock = json.loads((runtime.WEB / "package-lock.json").read_text())
    packages = {name: each for name, each in lock["packages"].items() if name}
    assert packages["node_modules/onnxruntime-web"]["version"] == runtime.version()
    assert all(each["integrity"].startswith("sha512-") for each in packages.values())
    assert "http" not in json.dumps(packages)


def test_the_same_files_make_the_same_page(paths, stand_in, tmp_path):
    first, second = (
        page.write(tmp_path / name, paths[:1], "x", runtime_folder=stand_in) for name in "ab"
    )
    assert first.read_bytes() == second.read_bytes()
