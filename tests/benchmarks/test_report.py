"""What the benchmarks share: options, tables, files."""

import argparse

import pytest

from benchmarks import report
from training.cli import InputError
from training.runs import files


def test_a_report_says_what_was_run_and_on_what():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int)
    report.add_output(parser, "some")
    args = report.parse(parser, "some", ["--rounds", "5", "--output", "a b"])
    found = report.new_report(args, ["numpy"])
    assert found["rounds"] == 5
    assert found["command"] == "python benchmarks/some.py --rounds 5 --output 'a b'"
    assert "output" not in found
    assert found["environment"]["versions"]["numpy"]
    caption = report.caption(found)
    assert f"`{found['command']}`" in caption
    assert f"numpy {found['environment']['versions']['numpy']}" in caption


def test_a_table_is_markdown_with_aligned_columns():
    table = report.table(["name", "ms"], [["ours", "1,234.5"], ["theirs, ported", "~2.0"]])
    assert table.splitlines() == [
        "| name           |      ms |",
        "|----------------|--------:|",
        "| ours           | 1,234.5 |",
        "| theirs, ported |    ~2.0 |",
    ]
    two = report.table(["name", "arch", "ms"], [["ours", "r50", "1"]], words=2)
    assert two.splitlines()[1:] == ["|------|------|---:|", "| ours | r50  |  1 |"]


def test_a_noisy_cell_is_marked():
    numbers = {"median": 1234.56, "p10": 1000, "p90": 1500, "noisy": True}
    assert report.cell(numbers, ",.1f") == "~1,234.6 (1,000.0–1,500.0)"
    assert report.cell({**numbers, "noisy": False}, ".0f") == "1235 (1000–1500)"


def test_the_page_is_printed_and_written_beside_the_json(tmp_path, capsys):
    report.write(tmp_path / "new", "some", {"figure": 1.5}, ["# Title", "text"])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["some.json", "some.md"]
    assert files.read_json(tmp_path / "new" / "some.json") == {"figure": 1.5}
    page = (tmp_path / "new" / "some.md").read_text()
    assert page == "# Title\n\ntext\n"
    assert page in capsys.readouterr().out


def test_an_option_below_its_minimum_is_refused():
    args = argparse.Namespace(batch_size=0, rounds=5)
    report.check(args, rounds=5)
    with pytest.raises(InputError, match="--batch-size 0: expected 1"):
        report.check(args, rounds=5, batch_size=1)
