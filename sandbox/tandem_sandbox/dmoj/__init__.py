"""Judges programs by problems in the format of DMOJ (docs.dmoj.ca), with the code sandbox."""
