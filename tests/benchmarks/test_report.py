"""What the benchmarks share: options, tables, files."""

import pytest

from benchmarks import report
from training.cli import InputError
from training.runs import files


def parser():
    parser = report.Parser("text", "some")
    parser.add_number("batch-size", 64, "images")
    parser.add_number("rounds", 10, "turns", 5)
    return parser


def test_a_report_has_the_command_and_the_environment():
    args = parser().parse_args(["--rounds", "5", "--output", "a b"])
    found = report.new_report(args, ["numpy"])
    assert (found["rounds"], found["batch_size"]) == (5, 64)
    assert found["command"] == "python benchmarks/some.py --rounds 5 --output 'a b'"
    assert "output" not in found
    caption = report.caption(found)
    assert f"`{found['command']}`" in caption
    assert f"numpy {found['environment']['versions']['numpy']}" in caption


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "0"], "--batch-size 0: expected 1"),
        (["--rounds", "4"], "--rounds 4: expected 5"),
        (["--rounds", "x"], "--rounds: invalid"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(InputError, match=message):
        parser().parse_args(arguments)


def test_a_noisy_cell_is_marked():
    numbers = {"median": 1234.56, "p10": 1000, "p90": 1500, "noisy": True}
    assert report.cell(numbers, ",.1f") == "~1,234.6 (1,000.0–1,500.0)"
    assert report.cell({**numbers, "noisy": False}, ".0f") == "1235 (1000–1500)"


def test_the_page_is_printed_and_written_beside_the_json(tmp_path, capsys):
    table = report.table(["name", "arch", "ms"], [["ours", "r50", "1"]], words=2)
    assert table.splitlines()[1] == "| --- | --- | ---: |"
    report.write(tmp_path / "new", "some", {"figure": 1.5}, ["# Title", table])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["some.json", "some.md"]
    assert files.read_json(tmp_path / "new" / "some.json") == {"figure": 1.5}
    page = (tmp_path / "new" / "some.md").read_text()
    assert page == f"# Title\n\n{table}\n"
    assert page in capsys.readouterr().out
