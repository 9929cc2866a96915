"""Llama, Mistral, Gemma, Gemma 2, Qwen 2 and Qwen 3."""
