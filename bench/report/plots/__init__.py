"""Figures: each module turns results into a tidy frame (the CSV beside the picture) and draws such a frame."""
