"""Autoencoders that somebody else has trained, as stage 1 of ours: frozen, recognised, checked."""
