"""A forecast in words: the table of `plan=true`, and the line before a long run."""

from drift.plan.forecast import UNKNOWN_EXAMPLES, Forecast
from drift.plan.memory import total, trained

GIB = 2**30
LONG_SECONDS = 1800.0  # a run that may take longer says so before it begins
LONG_IF_GUESSED = {"cpu": 14400.0, "cuda": 1800.0}  # a CPU's guess is cautious: the default run takes a small part of what it says


def gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"


def table(found: Forecast) -> list[str]:
    """The lines of `plan=true`."""
    shape, device = found.shape, found.device
    numbers = f"{shape.kind}, {millions(shape.total)} weights, {millions(trained(shape, found.setup))} of them trained"
    if found.setup.adapted:
        numbers = f"{shape.kind}, {millions(shape.total)} weights, and {millions(trained(shape, found.setup))} in the adapter"
    lines = [f"Model: {numbers}", f"Device: {device.name}, {gib(device.total)} GiB of memory, {gib(device.free)} free", ""]
    if found.setup.devices > 1:
        way = "weights, gradients and optimiser are divided" if found.setup.divided else "each has all weights"
        lines[-1:] = [f"{found.setup.devices} devices, {way} in training; the figures are for each of them", ""]
    lines.append(f"{'stage':<10} {'peak GiB':>8}  {'at most':>9}  of the peak, in GiB")
    for name, parts in found.stages.items():
        inside = ", ".join(f"{part} {gib(size)}" for part, size in parts.items())
        lines.append(f"{name:<10} {gib(total(parts)):>8}  {duration(found.seconds[name]):>9}  {inside}")
    lines += ["", f"Together at most {duration(sum(found.seconds.values()))}; {rates(found)}."]
    lines.append("Disk, at most: " + ", ".join(f"{name} {gib(size)} GiB" for name, size in found.disk.items()))
    if found.dollars is not None:
        lines.append(f"Judge, at most: {found.dollars:.2f} dollars")
    return [*lines, assumed(found)]


def in_store(known: tuple[dict[str, int], str | None] | None) -> str:
    """What is in the store already; `known`: from `stages_of`."""
    if known is None:
        return "In the store: not looked up, because the model is not complete here."
    stages, missing = known
    listed = ", ".join(f"{count} {name}" for name, count in stages.items()) or "nothing"
    return f"In the store: {listed}; " + (f"the first missing stage is {missing}." if missing else "nothing is missing.")


def assumed(found: Forecast) -> str:
    """What the times and the disk are for."""
    work = found.work
    count = f"{work.examples:,}" if found.counted else f"{UNKNOWN_EXAMPLES:,} (the log has not been read)"
    return (
        f"Assumed: {max(1, found.iterations)} x {count} examples with prompts of {work.prompt_tokens} tokens and replies of "
        f"{work.reply_tokens}, the longest that the settings allow, in batches of {found.tokens_per_batch:,} tokens, and "
        f"{work.samples:,} fresh replies."
    )


def short(found: Forecast) -> str | None:
    """One line for a run that may take long, or that may not fit into the memory that is free; None: neither."""
    seconds, (stage, peak) = sum(found.seconds.values()), found.peak
    tight = peak > found.device.free
    longest = LONG_SECONDS if found.rates.source == "measured" else LONG_IF_GUESSED[found.device.kind]
    if seconds <= longest and not tight:
        return None
    memory = f"{gib(peak)} of {gib(found.device.total)} GiB of memory ({stage})"
    if tight:
        memory += f", of which only {gib(found.device.free)} are free now"
    each = "" if found.counted else f" for {UNKNOWN_EXAMPLES:,} examples"
    return f"  Plan: {memory}; at most {duration(seconds)}{each}, {rates(found)}. More: plan=true"


def rates(found: Forecast) -> str:
    measured = found.rates.source == "measured"
    return "by the rates measured on this machine" if measured else "by guessed rates (drift calibrate measures them)"


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def millions(count: int) -> str:
    if count < 1e6:
        return f"{count:,}"
    return f"{count / 1e9:.2f} billion" if count >= 1e9 else f"{count / 1e6:.1f} million"
