"""scikit-learn estimators, trained by any optimizer and schedule of this package.

:class:`MLPClassifier` and :class:`MLPRegressor` are scikit-learn's own with other optimizers:
change the import. :class:`LinearClassifier` and :class:`LinearRegressor` are linear models on
batches, with the parameters of ``SGDClassifier`` and ``SGDRegressor``.

>>> from sklearn.datasets import load_iris
>>> X, y = load_iris(return_X_y=True)
>>> model = LinearClassifier("log_loss", optimizer="adam", learning_rate_init=0.1)
>>> bool(model.fit(X, y).score(X, y) > 0.95)
True
"""

from __future__ import annotations

try:
    import sklearn as _sklearn  # noqa: F401
except ImportError as _error:
    raise ImportError(
        'cyoptim.sklearn needs scikit-learn: pip install "cyoptim[sklearn]"'
    ) from _error

from cyoptim.sklearn._linear import LinearClassifier, LinearRegressor
from cyoptim.sklearn._mlp import MLPClassifier, MLPRegressor

__all__ = ["LinearClassifier", "LinearRegressor", "MLPClassifier", "MLPRegressor"]
