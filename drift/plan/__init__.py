"""What a run will take, before anything is loaded: memory by part, hours, disk and dollars, from `config.json` and the settings."""
