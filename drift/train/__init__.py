"""From pairs to the next policy: the row plan, the reference pass, one epoch of DPO. Blind to the method that made them."""
