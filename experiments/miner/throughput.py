"""How fast the miner judges turns on one core, and what reading a large file takes of memory.

python experiments/miner/throughput.py turns              the package's ShareGPT turns, rules and classifier
python experiments/miner/throughput.py memory FOLDER      a synthetic WildFeedback array of 2 GB, written to FOLDER first
"""

import argparse
import json
import os
import random
import resource
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from drift.data.sharegpt import ShareGpt  # noqa: E402
from drift.data.wildfeedback import WildFeedback  # noqa: E402
from drift.intake.conversations import Conversation  # noqa: E402
from drift.intake.intake import BATCH_SIZE, Intake  # noqa: E402
from drift.mine.classifier import Classifier  # noqa: E402
from drift.mine.rules import Rules  # noqa: E402

GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["turns", "memory"])
    parser.add_argument("folder", nargs="?", type=Path)
    arguments = parser.parse_args()
    turns() if arguments.what == "turns" else memory(arguments.folder)


def turns() -> None:
    source = ShareGpt(path=None, ignore_fields=[])
    talks = [item.messages for file in source.files() for item in source.conversations(file) if isinstance(item, Conversation)]
    for miner in (Rules(), Classifier(dsat_threshold=0.5, sat_threshold=0.5)):
        miner.classify(talks[:8])  # loads weights and libraries
        begun, cpu, count = time.monotonic(), time.process_time(), 0
        for low in range(0, len(talks), BATCH_SIZE):
            count += sum(map(len, miner.classify([list(talk) for talk in talks[low : low + BATCH_SIZE]])))
        seconds, busy = time.monotonic() - begun, time.process_time() - cpu
        print(f"{type(miner).__name__.lower()}: {count} turns, {count / seconds:.0f}/s ({count / busy:.0f} per processor second)")


def memory(folder: Path) -> None:
    file = folder / "sat_dsat_annotation.json"
    if not file.is_file():
        write(file)
    intake = Intake(
        records_per_conversation="all", max_records=4000, seed=0, languages=None, near_duplicates=None, drop_flagged=[],
        redact=False, leakage="remove",
    )  # fmt: skip
    begun = time.monotonic()
    found = intake.collect(WildFeedback(path=str(file)), Rules())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{file.stat().st_size / GIB:.2f} GiB in {time.monotonic() - begun:.0f} s, peak memory {peak:.2f} GiB")
    print(found.facts)


def write(file: Path) -> None:
    """Conversations of four utterances; of every twenty users one complains and one is pleased."""
    rng = random.Random(0)
    words = [f"word{i}" for i in range(5000)]
    with open(file, "w", encoding="utf-8") as out:
        out.write("[")
        first = True
        while out.tell() < 2 * GIB:
            flags = {"Satisfaction": rng.random() < 0.05, "Disatisfaction": rng.random() < 0.05}
            for i, role in enumerate(("User", "Agent", "User", "Agent")):
                text = " ".join(rng.choices(words, k=250 if role == "Agent" else 60))
                row = {
                    "UtteranceId": i,
                    "TurnId": i // 2 + 1,
                    "Role": role,
                    "Content": text,
                    "Preceeding": "YES",
                    "State": "FEEDBACK",
                }
                out.write(
                    ("" if first else ",\n")
                    + json.dumps(row | (flags if i >= 2 else {"Satisfaction": False, "Disatisfaction": False}))
                )
                first = False
        out.write("]")


if __name__ == "__main__":
    main()
