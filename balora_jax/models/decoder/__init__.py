"""Llama, Mistral, Mixtral, Gemma 1 to 3, Qwen 2 and 3, Phi 3 and 4, OLMo 2, SmolLM 3, Granite."""
