"""Published networks and operations, written plainly by us: what ours is compared with.

Made from descriptions of the networks: channels first, 1x1 convolutions, one tensor for every edge,
ball and view, full distance matrices; nothing is shared with the fast forms in ``models``. The
names of the attributes are those of the releases, so ``state_dict()`` has the keys of the published
files. Training, evaluation and every floating type work; in double precision the neighbours are
exact, which is how the tests and the check of the benchmark use them.
"""
