"""Where the start model comes from (gguf, pretrained, tiny), its checks, policies as directories, and chat rendering."""
