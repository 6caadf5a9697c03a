"""From examples to the next policy: settings, the training stage, the Lightning module. It doesn't know the method."""
