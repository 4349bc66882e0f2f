"""Runs shown: arms, figures, sliders."""
