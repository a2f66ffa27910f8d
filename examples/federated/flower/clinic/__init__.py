"""A logistic regression that clinics train with Flower; its data are made up."""
