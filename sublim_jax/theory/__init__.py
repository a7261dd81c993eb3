"""What is predicted, by formulas that see no trained net."""
