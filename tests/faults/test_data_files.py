"""The data's files are damaged while a training runs, and before it is resumed."""

import os
import shutil
import signal

import pytest

from tests.faults.attempts import Attempt, assert_equal_runs, assert_whole, contents
from tests.faults.child import Moment
from tests.support.tiny_cifar import members, write_tar, write_tfds

pytestmark = [pytest.mark.slow, pytest.mark.faults]
IMAGES = 64  # two steps an epoch


def archive(folder):
    return write_tar(folder, contents=members(count=IMAGES))


def prepared_by_tfds(folder):
    return write_tfds(folder, count=IMAGES) / "cifar100-train.tfrecord-00000-of-00001"


@pytest.mark.parametrize("write", [archive, prepared_by_tfds])
def test_damaged_files(tmp_path, write):
    """A running training has its data in memory. One that starts or resumes refuses the files."""
    data = tmp_path / "data"
    data.mkdir()
    file = write(data)
    whole = shutil.copytree(data, tmp_path / "whole")
    more = ["--dataset", "cifar100", "--data-dir", str(data)]

    first = Attempt(
        tmp_path / "first", *more, moment=Moment(("training.step 1",), signal=signal.SIGSTOP)
    )
    first.wait_until_stopped()
    os.truncate(file, file.stat().st_size // 2)
    file.unlink()
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.wait() == 0, first.errors
    assert_whole(tmp_path / "first")

    shutil.copytree(whole, data, dirs_exist_ok=True)
    second = Attempt(tmp_path / "second", *more, moment=Moment(("training.step 4",)))
    assert second.wait() == -signal.SIGKILL
    before = contents(tmp_path / "second")
    os.truncate(file, file.stat().st_size // 2)
    refused = Attempt(tmp_path / "second", *more, "--resume")
    assert refused.wait() == 2
    assert str(data) in refused.error_line()
    assert contents(tmp_path / "second") == before

    shutil.copytree(whole, data, dirs_exist_ok=True)
    resumed = Attempt(tmp_path / "second", *more, "--resume")
    assert resumed.wait() == 0, resumed.errors
    assert resumed.steps[0] == 3
    assert_equal_runs(tmp_path / "second", tmp_path / "first")
