"""Priors of latents on bounded spaces: the sphere, and what carries priors of real numbers to sphere and box."""
