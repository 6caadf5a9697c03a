"""Prints what the package alpaca-eval makes of annotations (a JSON list in argv[2]); its modules are in the folder argv[1].

The modules are imported without the package's own `__init__`, which would read .env files, without pkg_resources, which new
versions of setuptools lack, and without datasets, which takes seconds; the functions that are compared use neither. df_gamed.csv is
found where the package looks for it, in the Hugging Face cache."""

import json
import sys
import types

folder, annotations = sys.argv[1:]
for name in ("alpaca_eval", "alpaca_eval.metrics"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
sys.modules["pkg_resources"] = types.ModuleType("pkg_resources")
sys.modules["datasets"] = types.ModuleType("datasets")
sys.modules["datasets"].Dataset = type("Dataset", (), {})

import pandas as pd  # noqa: E402
from alpaca_eval import processors  # noqa: E402
from alpaca_eval.metrics.glm_winrate import get_length_controlled_winrate  # noqa: E402

frame = pd.read_json(annotations, dtype={"preference": float})
switch = processors.RandomSwitchTwoColumnsProcessor(
    seed=0,
    two_columns_to_switch=["output_1", "output_2"],
    random_seed_columns=["instruction"],
    _switch_column="is_switched_outputs",  # a part of its seed
)
figures = get_length_controlled_winrate(frame, save_weights_dir=None)
switched = switch.preprocess(frame[["instruction", "output_1", "output_2"]])["is_switched_outputs"]
print(json.dumps({**{name: float(value) for name, value in figures.items()}, "switched": [bool(one) for one in switched],
                  "shares": list(frame["glm_preference"])}))  # fmt: skip
