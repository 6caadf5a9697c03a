"""Where the start model comes from (gguf, pretrained, tiny), policies as directories, and chat rendering."""
