"""What the study compares: arms with their configurations, regimes of feedback, seeds."""

COMMON = ["iterations=1", "examples_per_iteration=120", "data.num_prompts=300", "evaluation.deployment.num_samples=2"]
ARMS = {
    "DRIFT": ["method=drift"],
    "length-matched random": ["method=random_logged", "method.match=length"],
    "SFT": ["method=sft", "method.rounds=16"],
    "SPIN": ["method=spin", "method.rounds=16"],
    "DRIFT x 3": ["method=drift", "method.num_samples=3"],
    "random": ["method=random_logged"],
    "IterDPO": ["method=iterdpo"],
    "KTO": ["method=unpaired"],
    "SDPO": ["method=sdpo", "method.rounds=16"],
}
PREFERENCE = [
    [f"train.learning_rate={rate}", f"objective.nll.weight={nll}"]
    for rate, nll in ((4e-4, 0.1), (8e-4, 0.1), (1.6e-3, 0.1), (8e-4, 0.4))
]
RATES = [[f"train.learning_rate={rate}"] for rate in (4e-4, 8e-4, 1.6e-3, 3e-3)]
WORDS_ALONE = ["train.learning_rate=0.0005", 'method.context=" {feedback}"']  # no text around the user's words
# KTO's and SDPO's were 4e-4 to 3e-3 and 2e-4 to 2e-3 at first, and the lowest was the best of them: both were moved down.
LOW_RATES = [[f"train.learning_rate={rate}"] for rate in (5e-5, 1e-4, 2e-4, 4e-4)]
HINDSIGHT = [*([f"train.learning_rate={rate}"] for rate in (1e-4, 2e-4, 5e-4)), WORDS_ALONE]
CHOICES = dict.fromkeys(ARMS, PREFERENCE) | {"SFT": RATES, "KTO": LOW_RATES, "SDPO": HINDSIGHT}
SCARCE = ["data.praise_rate=0.125"]
REGIMES = {
    "R1": SCARCE,
    "R0": [],
    "R2": [
        "data.num_prompts=500",
        "data.complaint_rate=0.5",
        "data.praise_rate=0.2",
        "data.false_praise=0.25",
        "data.unfounded=0.17",
    ],
    "R3": ["data.num_prompts=480", *SCARCE],
    "R4": ["data.deployed.temperature=1.2", *SCARCE],
    "R5": ["iterations=3", "refresh_log=true", *SCARCE],
}
# What may keep DRIFT from collapsing on a log that grows old: five iterations, and the log stays the start model's.
OLD_LOG = ["iterations=5", "refresh_log=false", *SCARCE]
OLD_AS_IT_IS = "as it is"
OLD = {
    OLD_AS_IT_IS: [],
    "weak anchor (the default)": ["objective.nll.weight=0.1"],
    "decaying rate": ["train.rate_decay=0.6"],
    "start as reference": ["reference=start"],
    "start as reference, beta .5": ["reference=start", "objective.dpo.beta=0.5"],
    "IPO, start as reference": ["reference=start", "objective=[ipo,nll]"],
    "length-normalised": ["reference=start", "objective=[dpo_norm,nll]"],
}
PRIMARY, RIVALS = "DRIFT", ("length-matched random", "SFT", "SPIN")
TUNE_SEEDS, OLD_SEEDS, TEST_SEEDS, FIRST = (1100, 1101), (1110, 1111, 1112), tuple(range(1200, 1220)), 8
PHASES = ["tune", *REGIMES, "old"]
