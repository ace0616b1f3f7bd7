"""A grid search over processes, by the backend of joblib that the command line names."""

import multiprocessing
import os
import sys

import joblib
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

if __name__ == "__main__":
    assert type(multiprocessing.get_context()).__module__.startswith(os.environ["WHOSE"])
    features, kinds = load_iris(return_X_y=True)
    search = GridSearchCV(SVC(), {"C": [0.1, 1, 10], "kernel": ["linear", "rbf"]}, cv=3, n_jobs=2)
    with joblib.parallel_backend(sys.argv[1], n_jobs=2):
        search.fit(features, kinds)
    print(search.best_params_, round(search.best_score_, 9))
    print(search.cv_results_["mean_test_score"].round(9).tolist())
