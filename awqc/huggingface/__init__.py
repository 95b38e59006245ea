"""Hugging Face folders: reading them, capturing their models, and writing what runners need."""
