"""Cross-model consensus of explanations for image classifiers (Li et al., Machine Learning 2023)."""

import os

__version__ = "0.1.0"

# Threads of OpenMP that wait for each other sleep: awake, they take the cores from other jobs on the machine. It is
# read once, as torch is loaded. The first is GNU's; the second LLVM's, which macOS has, and Intel's.
for _name, _value in (("GOMP_SPINCOUNT", "1000"), ("KMP_BLOCKTIME", "0")):
    if "OMP_WAIT_POLICY" not in os.environ:  # what the user says holds
        os.environ.setdefault(_name, _value)
