"""A real LLM engine on a real node: llama.cpp's server with a small model, its pods, and load for it."""
