"""Stands in for train.py in the tests of launch: each process runs the code in DO_<its number>.

`signals` are those that it got; a file named after its number and the signal tells of each. The
file named after its number alone holds its process id.
"""

import os
import signal
import sys
import time
from pathlib import Path

NUMBER = os.environ["KERAS_DISTRIBUTION_PROCESS_ID"]
FOLDER = Path(os.environ["FOLDER"])
signals = []


def got(number, _):
    signals.append(number)
    with open(FOLDER / f"{NUMBER}.{signal.Signals(number).name}", "a") as file:
        file.write("x")


def wait():
    """Trains on, so to say, until a signal, and ends as train.py does."""
    while not signals:
        time.sleep(0.02)
    time.sleep(0.1)  # a checkpoint; a second signal would come meanwhile
    sys.exit(128 + signals[0])


def wait_for(name):
    while not (FOLDER / name).exists():
        time.sleep(0.02)


if __name__ == "__main__":
    signal.alarm(120)  # nothing else ends it if the launcher fails its test
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, got)
    (FOLDER / f".{NUMBER}").write_text(str(os.getpid()))
    (FOLDER / f".{NUMBER}").rename(FOLDER / NUMBER)
    exec(os.environ.get(f"DO_{NUMBER}", ""))
