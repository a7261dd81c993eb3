"""Subliminal learning of pretrained language models: teachers, rows, students, evaluation."""
