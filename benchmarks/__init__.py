"""How fast and how large the laboratory is, against the usual way: ``python -m benchmarks``, or
``make bench``.

Every speed is a ratio taken in one process. The contenders take turns (A B A B ...) for a few
rounds after a warm-up, so that a slow minute of the machine hits both sides of a ratio; the median
over the rounds stands with their range. ``results/benchmarks.md`` is written by this code, never by
hand.

``timing``     rounds, ratios, and a row with its target
``usual``      the other side: plain PyTorch loops, bare and as they are usually written
``ours``       our training loop on stand-in data of the real shapes
``training``   the loop with masks against both, for convolutional networks
``cohorts``    a cohort per network against one network, and against our own loop one by one
``threads``    what ``lib.training.plan`` chooses, against the other choices
``general``    what the estimators cost for a network that no formula covers
``processes``  what ``import lib`` adds, and the memory of a quick notebook
``report``     the machine, and the tables as Markdown
"""
