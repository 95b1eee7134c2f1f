"""Bounded spaces that latents live in: on each a posterior, and what the uniform density there needs."""
