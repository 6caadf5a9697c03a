"""A checkpoint that is damaged or another's counts as absent, and a folder that another process has taken is not written to."""

import pytest
import torch

from drift.train.checkpoint import Checkpoints


def flip(content):
    """A byte in the middle of a tensor: torch alone would load it without a word."""
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


DAMAGE = {
    "flipped": flip,
    "cut": lambda content: content[: len(content) // 2],
    "end cut": lambda content: content[:-1],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "json": lambda content: b"[]",
}


def save(path, **changes):
    found = {"history": [{"loss": 1.0}] * 3, "state_dict": {"w": torch.arange(4000.0)}} | changes
    Checkpoints("key").save_checkpoint(found, path)


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_reported_and_not_used(tmp_path, capsys, how):
    path = tmp_path / "last.ckpt"
    save(path)
    assert Checkpoints("key").steps_in(path) == 3 and [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]
    path.write_bytes(DAMAGE[how](path.read_bytes()))
    assert Checkpoints("key").steps_in(path) == 0 and "is damaged and is not used" in capsys.readouterr().out


@pytest.mark.parametrize("history", [None, 3, {"loss": 1.0}])
def test_a_checkpoint_with_a_history_of_the_wrong_type_is_not_used(tmp_path, history):
    save(tmp_path / "last.ckpt", history=history)
    assert Checkpoints("key").steps_in(tmp_path / "last.ckpt") == 0


def test_nothing_is_saved_where_another_process_has_taken_the_folder_and_that_is_said_once(tmp_path, capsys):
    mine, progress = Checkpoints("key"), tmp_path / "key.progress.1"
    for _ in range(2):
        mine.save_checkpoint({"history": []}, progress / "last.ckpt")
    assert capsys.readouterr().out.count("Another process has taken over") == 1 and not list(tmp_path.iterdir())
