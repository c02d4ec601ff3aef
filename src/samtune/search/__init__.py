"""`samtune sweep`: settings searched for within a budget of time; every trial is a normal run."""
