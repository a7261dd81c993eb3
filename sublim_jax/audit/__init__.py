"""Predicting from one gradient whether a student will take over a trait."""
