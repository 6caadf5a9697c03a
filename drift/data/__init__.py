"""Where records come from: a simulated deployment (deployment), real logs (sharegpt), files (jsonl)."""
