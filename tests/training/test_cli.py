"""What all command lines share: their parser, and the statuses that they exit with."""

import os
import time

import pytest

from training import cli, compare, evaluate, gates, launch, train


@pytest.fixture
def parser():
    parser = cli.Parser("What it does.\n\n    an example")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--image-sizes", type=int, nargs="*")
    parser.add_argument("--epochs", type=int, default=3, help="default: %(default)s")
    return parser


def test_help_begins_with_the_description_as_it_is_written(parser):
    assert "What it does.\n\n    an example\n" in parser.format_help()


def test_options(parser):
    args = parser.parse_args(["a run", "--image-sizes", "16", "32", "--epochs=5"])
    assert vars(args) == {"run": "a run", "image_sizes": [16, 32], "epochs": 5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--epoch", "5"], "--epoch. Did you mean --epochs"),  # no abbreviation is accepted
        (["--image-size=32"], "--image-size. Did you mean --image-sizes"),
        (["--run", "a"], "--run. Give its value without --run"),
        (["--run=a"], "--run. Give its value without --run"),
        (["-e", "5"], "option -e"),
        (["a", "b"], "'b'"),
        (["--epochs", "many"], "--epochs: invalid int value: 'many'"),
        (["--epochs"], "--epochs: expected one argument"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_status_2(parser, capsys, words, message):
    with pytest.raises(SystemExit) as exited:
        cli.run(lambda: parser.parse_args(words))
    assert exited.value.code == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("command", [train, evaluate, compare, gates, launch])
def test_every_command_refuses_abbreviations_and_names_the_nearest(command):
    option = max(command.parser()._option_string_actions, key=len)
    with pytest.raises(cli.InputError, match=option):
        # compare and launch need options of their own.
        command.parser().parse_args([option[:-1], "1", "--archs=r18", "--processes=1"])


def test_a_run_without_its_option_is_refused_with_the_option():
    parser = cli.Parser("What it does.")
    parser.add_argument("--run")
    with pytest.raises(cli.InputError, match="Give a run with --run"):
        parser.parse_args(["a run"])


def test_unknown_names_list_what_there_is():
    with pytest.raises(cli.InputError, match=r"kind 'a'; there are aa, bb. Did you mean 'aa'"):
        cli.check_name("kind", "a", ["aa", "bb"])
    with pytest.raises(cli.InputError, match="none"):
        cli.check_name("kind", "a", [])


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (cli.InputError("two\n lines"), 2),
        (cli.FailedError("two\n lines"), 1),
        (cli.Terminated("two lines"), 143),
        (KeyboardInterrupt(), 130),
        (OSError(28, "two lines", "file"), 2),
        (RuntimeError("two lines: No space left on device; No space"), 2),
    ],
)
def test_statuses(error, status, capsys):
    def main():
        raise error

    left = []
    cli.run(main, left.append)
    assert left == [status]
    printed = capsys.readouterr().err
    assert status == 130 or printed.count("\n") == 1
    assert "Traceback" not in printed


def test_other_errors_and_success_pass():
    cli.run(lambda: None)
    with pytest.raises(RuntimeError):
        cli.run(lambda: (_ for _ in ()).throw(RuntimeError("a bug")))


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(cli.InputError, match=r"absent.*\[train\]"), cli.needing("train"):
        raise ModuleNotFoundError("no", name="absent")


def test_native_code_is_silent_while_packages_are_imported(capfd):
    """Unless an import fails for another reason than a missing package."""
    with cli.needing("train"):
        os.write(2, b"I0000 no GPU\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"

    def broken():
        os.write(2, b"libcudart is broken\n")
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"), cli.needing("train"):
        broken()
    assert capfd.readouterr().err == "libcudart is broken\n"


def test_a_terminal_is_told_that_packages_are_loaded(monkeypatch, capfd):
    monkeypatch.setattr(os, "isatty", lambda descriptor: True)
    monkeypatch.setattr(cli, "PATIENCE", 0.01)
    with cli.needing("train"):
        time.sleep(0.2)
    assert capfd.readouterr().err == cli.LOADING
