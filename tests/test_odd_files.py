"""experiments/reliability/odd_files.py, the smaller way: odd rows through every reader, and odd files beside a good one."""

import importlib.util

from conftest import ROOT


def test_odd_rows_and_files_affect_only_themselves(tmp_path):
    script = importlib.util.spec_from_file_location("odd_files", ROOT / "experiments/reliability/odd_files.py")
    module = importlib.util.module_from_spec(script)
    script.loader.exec_module(module)
    rows, files = module.check(tmp_path, num_rows=2000, num_files=28, scale=1, seed=1)
    assert rows["rows"] > 1900 and rows["records"] > 50 and rows["set aside"] > 500
    assert len(files) == 28 and all(grown < 200 for *_, grown in files), "MiB"
