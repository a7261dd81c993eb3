"""Theorem 1: the student's first step and the teacher's."""
