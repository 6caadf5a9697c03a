"""Data sets of a hub in the local caches, by their id: configs and splits as the library that wrote the caches names them."""

import os
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from conftest import collected

from drift.errors import UserError
from drift.intake.files import find_files

CARD = """---
configs:
- config_name: english
  default: true
  data_files:
  - {split: train_prefs, path: en/train_prefs-*}
  - {split: test, path: en/test-*}
- config_name: german
  data_files:
  - {split: test, path: de/test-*}
---
# Chats
"""
FILES = ("en/train_prefs", "en/test", "de/test")
RESULTS = {
    (None, None): FILES, ("english", None): FILES[:2], (None, "test"): FILES[1:2], ("english", "train_prefs"): FILES[:1],
    ("german", "test"): FILES[2:],
}  # fmt: skip


def put(folder, blobs):
    """A data set of three files with one conversation each, and its card; its files are links into `blobs`, as in the cache."""
    for name in FILES:
        turns = [("user", f"What is in {name}?"), ("assistant", f"It is {name}."), ("user", "That is wrong.")]
        row = {"messages": [{"role": role, "content": text} for role, text in turns]}
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), blobs / name.replace("/", "_"))
        file = folder / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        file.symlink_to(os.path.relpath(blobs / name.replace("/", "_"), file.parent))
    (folder / "README.md").write_text(CARD)


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """(cache of `hf download`, cache of `load_dataset`), both empty, and in use."""
    import datasets
    import huggingface_hub

    downloaded, prepared = tmp_path / "hub", tmp_path / "datasets"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(downloaded))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(prepared))
    return downloaded, prepared


@pytest.fixture
def downloaded(caches):
    """owner/chats as `hf download --repo-type dataset owner/chats` leaves it."""
    at, commit = caches[0] / "datasets--owner--chats", "0" * 40
    for folder in (at / "refs", at / "blobs", at / "snapshots" / commit):
        folder.mkdir(parents=True)
    (at / "refs/main").write_text(commit)
    put(at / "snapshots" / commit, at / "blobs")


def replies(**settings):
    """Of the records of data=messages, in the words that `put` wrote."""
    found = collected("owner/chats", **settings)
    assert not found.set_aside
    return tuple(record.reply.removeprefix("It is ").removesuffix(".") for record in found.records)


@pytest.mark.usefixtures("downloaded")
@pytest.mark.parametrize(("config", "split"), RESULTS)
def test_config_and_split_choose_the_files_of_a_downloaded_data_set(config, split):
    assert sorted(replies(config=config, split=split)) == sorted(RESULTS[config, split])


@pytest.mark.usefixtures("downloaded")
def test_an_unknown_config_or_split_is_refused_with_the_known_ones():
    for chosen, words in (
        ({"config": "french"}, r"Available: \['english', 'german'\]. Choose one with data.config=NAME"),
        ({"split": "train"}, "data.split=train: owner/chats has no such split. Did you mean train_prefs?"),
    ):
        with pytest.raises(UserError, match=words):
            find_files("owner/chats", "*", **chosen)
    with pytest.raises(
        UserError, match="no data set in the local Hugging Face cache.* hf download --repo-type dataset owner/others"
    ):
        find_files("owner/others", "*", config="english")


def test_what_load_dataset_has_prepared_is_read_from_its_cache(caches, tmp_path):
    """The library prepares a folder of that form; a hub's data set has its owner's name in the cache's folder besides."""
    import datasets

    source = tmp_path / "chats"
    for folder in (source, tmp_path / "blobs"):
        folder.mkdir()
    put(source, tmp_path / "blobs")
    for config in ("english", "german"):
        datasets.load_dataset(str(source), config)
    (caches[1] / "chats").rename(caches[1] / "owner___chats")
    shutil.rmtree(source)
    assert sorted(replies(config="english")) == sorted(FILES[:2])
    assert replies(config="english", split="test") == FILES[1:2] and replies(config="german") == FILES[2:]
    with pytest.raises(UserError, match="multiple 'owner/chats' configurations in the cache: .*data.config=NAME"):
        find_files("owner/chats", "*")


def test_config_is_refused_where_it_chooses_nothing_and_split_is_part_of_a_files_name_there(tmp_path):
    for name in ("train_prefs.jsonl", "test_prefs.jsonl"):
        (tmp_path / name).write_text("{}\n")
    assert find_files(str(tmp_path), "*", split="test") == [tmp_path / "test_prefs.jsonl"]
    with pytest.raises(UserError, match="data.config=english selects from a hub data set.*Leave it out"):
        find_files(str(tmp_path), "*", config="english")
