"""The rows of one clinic, made up by its number, and one pass of training over them."""

import warnings

import numpy as np
from sklearn.linear_model import SGDClassifier

FEATURES = 5


def rows(clinic: int, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(clinic)
    matrix = random.normal(0, 1, (count, FEATURES))
    ill = matrix @ np.linspace(2, -1, FEATURES) + random.normal(0, 0.5, count) > 0
    return matrix, ill.astype(np.float64)


def model(arrays: list[np.ndarray]) -> SGDClassifier:
    found = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)
    found.classes_ = np.array([0.0, 1.0])
    found.coef_, found.intercept_ = (array.astype(np.float64).copy() for array in arrays)
    return found


def trained(arrays: list[np.ndarray], clinic: int) -> list[np.ndarray]:
    found = model(arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found.partial_fit(*rows(clinic))
    return [found.coef_, found.intercept_]


def start() -> list[np.ndarray]:
    return [np.zeros((1, FEATURES)), np.zeros(1)]
