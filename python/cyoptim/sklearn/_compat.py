"""Functions that some supported versions of scikit-learn lack."""

from __future__ import annotations

from typing import Any

__all__ = ["validate_data"]

try:
    from sklearn.utils.validation import validate_data
except ImportError:  # before scikit-learn 1.6

    def validate_data(estimator: Any, *args: Any, **kwargs: Any) -> Any:
        """Call the estimator's method, which came before the function."""
        return estimator._validate_data(*args, **kwargs)
