"""`harness search`: hyper-parameters by Optuna, without a look at the test set."""
