"""The published networks as plain modules: what a converted checkpoint is compared with.

Written from descriptions of the networks, channels first, one tensor for every edge, ball and view,
nothing shared with the fast forms in ``models``. The names of the attributes are those of the
releases, so ``state_dict()`` has the keys of the published files.
"""
