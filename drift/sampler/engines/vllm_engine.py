"""One vLLM engine as a process: `python vllm_engine.py`, requests on standard input, answers on standard output, a JSON line each.

    {"engine": {arguments of vllm.LLM}, "adapter": [name, directory] or null}       -> {"ready": version of vLLM}
    {"prompts": [[id, …], …], "seeds": [n, …], "sampling": {…}}                     -> {"replies": [[[id, …], [nat, …]], …]}

or {"error": text}. Whatever libraries print goes to standard error, which is a file. The end of standard input ends the process,
and with it everything that it holds. It is started by `drift/sampler/vllm.py`, often with another Python than the one that runs
drift, so it needs vLLM and nothing else.

vLLM's own processes are spawned: a forked one would wait for ever for the lock of an input that a thread was reading here."""

import importlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback

GRACE = 10  # seconds for an orderly end


def main():
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    asked = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "spawn"
    requests = queue.Queue()
    threading.Thread(target=read, args=(asked, requests), daemon=True).start()

    def answer(content):
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        vllm = importlib.import_module("vllm")
        first = requests.get()
        engine = vllm.LLM(**first["engine"])
        adapter = first["adapter"] and adapter_request(*first["adapter"])
        answer({"ready": vllm.__version__})
        while (request := requests.get()) is not None:
            answer({"replies": replies(vllm, engine, adapter, request)})
    except Exception as error:
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def adapter_request(name, directory):
    return importlib.import_module("vllm.lora.request").LoRARequest(name, 1, directory)  # the only adapter of this process


def replies(vllm, engine, adapter, request):
    """For each prompt, the sampled ids and their log-probabilities."""
    sampling = [vllm.SamplingParams(seed=seed, **request["sampling"]) for seed in request["seeds"]]
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    done = engine.generate(prompts, sampling, lora_request=adapter, use_tqdm=False)
    found = []
    for one in (result.outputs[0] for result in done):
        ids = list(one.token_ids)
        found.append([ids, [place[i].logprob for i, place in zip(ids, one.logprobs)]])  # noqa: B905  (Python 3.9)
    return found


def read(asked, requests):
    """Passes the requests on. After the last one the process ends, even in the middle of a request."""
    for line in asked:
        requests.put(json.loads(line))
    requests.put(None)
    time.sleep(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
