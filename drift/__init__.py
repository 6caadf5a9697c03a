"""Learning from user dissatisfaction: DRIFT, SPIN and IterDPO in one iterative preference-training loop."""

from drift import quiet

quiet.environment()
