"""How often the start model gives simulated users what they want, by request, and how far length alone gives that away.

    python experiments/regimes/world.py OUTPUT.jsonl                 the users of the default run
    python experiments/regimes/world.py OUTPUT.jsonl data.requests=brief

Replies to prompts on validation topics, as a run with these overrides would draw them; every reply with its verdict goes to
OUTPUT.jsonl, to be read by eye. r: Pearson's correlation of useful (0 or 1) and words, over the replies.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path
from statistics import correlation, fmean
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from drift.console import say, table  # noqa: E402
from drift.data.requests import verify, words  # noqa: E402
from drift.evaluation.deployment import as_row  # noqa: E402

PROMPTS = 600


def main(file: Path, overrides: list[str]) -> None:
    from hydra.utils import instantiate

    from drift.compose import compose
    from drift.model.policy import policy_at
    from drift.randomness import Noise

    config = compose(overrides)
    data, sampler, model = (instantiate(config[part], _convert_="all") for part in ("data", "sampler", "model"))
    tasks = data.tasks("validation", PROMPTS)
    policy = policy_at(model.directory(), template=model.template)
    with sampler.open(policy) as generate:
        noise = [Noise(data.seed, "world", 0, task.key, 0) for task in tasks]
        replies = generate([task.prompt for task in tasks], noise, lambda share: None)
    rows = [as_row(task, reply) for task, reply in zip(tasks, replies, strict=True)]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    show(rows)


def show(rows: list[dict[str, Any]]) -> None:
    by_request = defaultdict(list)
    for row in rows:
        by_request[row["truth"]["request"]].append(row)
    table([line(name, group) for name, group in sorted(by_request.items())] + [line("all", rows)])
    say("Shares of the replies; r: correlation of useful and words.")


def line(name: str, rows: list[dict[str, Any]]) -> dict[str, str]:
    lengths = [len(words(row["reply"])) for row in rows]
    checks = [verify(row["truth"], row["reply"], ended=row["ended"]) for row in rows]
    shares = {
        "useful": [check.useful for check in checks], "met": [check.met for check in checks],
        "on topic": [check.on_topic for check in checks], "sound": [check.sound for check in checks],
        "ended": [check.ended for check in checks],
    }  # fmt: skip
    r = correlation([float(check.useful) for check in checks], lengths)
    return {"request": name, "replies": str(len(rows)), "words": f"{fmean(lengths):.1f}", "r": f"{r:+.2f}"} | {
        name: f"{fmean(map(float, values)):.2f}" for name, values in shares.items()
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
