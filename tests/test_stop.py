"""Signals end the program, wherever they arrive, with the exit code that a shell gives them and without a traceback."""

import subprocess
import sys

import pytest
from conftest import ROOT

BEGIN = """
import os, signal, time
from drift import stop
from drift.console import Progress

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell makes its background jobs ignore it
stop.install()

class Library:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        for _ in range(1000):
            pass  # the handler raises here, and Python throws it away
"""
IN_DEL = """
Library()
print("still here", flush=True)
with Progress("training", total=7, unit="steps", begun=2) as bar:
    bar.saved = 2
    bar.advance(1)
print("not reached")
"""
IN_A_LIBRARY_THAT_CATCHES_EVERYTHING = """
try:
    os.kill(os.getpid(), signal.{signal})
    time.sleep(5)
except BaseException:
    print("still here", flush=True)
with Progress("training", total=7, unit="steps", begun=2) as bar:
    bar.saved = 2
    bar.advance(1)
print("not reached")
"""
TWICE = """
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
finally:
    print("ending", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
    print("not reached")
"""
OF_A_LAUNCHER = """
signal.signal(signal.SIGTERM, lambda number, frame: print("the launcher's", flush=True))
stop.install()
os.kill(os.getpid(), signal.SIGTERM)
print("goes on")
"""


def run(code, signal="SIGINT"):
    script = (BEGIN + code).replace("{signal}", signal)
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138)])
def test_a_signal_that_is_swallowed_in_a_destructor_ends_the_next_step(signal, code):
    done = run(IN_DEL, signal)
    assert (done.returncode, done.stderr) == (code, "")
    assert done.stdout == "still here\n  training: stopped at 2 of 7 steps, of which 2 are saved\n"


def test_a_signal_that_a_library_catches_ends_the_next_step():
    done = run(IN_A_LIBRARY_THAT_CATCHES_EVERYTHING)
    assert (done.returncode, done.stderr) == (130, "") and done.stdout.startswith("still here\n  training: stopped at 2 of 7")


def test_a_second_ctrl_c_ends_at_once():
    done = run(TWICE)
    assert (done.returncode, done.stdout, done.stderr) == (130, "ending\n", "")


def test_the_signal_handler_of_a_launcher_is_kept():
    done = run(OF_A_LAUNCHER)
    assert (done.returncode, done.stdout) == (0, "the launcher's\ngoes on\n")
