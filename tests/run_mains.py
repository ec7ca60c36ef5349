"""Programs one after the other in the processes of one torchrun, which takes seconds to start.

Arguments: a JSON list of pairs, the module of a program and the arguments of its ``main``; then a
folder.
"""

import functools
import importlib
import json
import os
import sys

import torch.distributed as dist


def main(programs: str, folder: str) -> None:
    sys.path.insert(0, os.getcwd())
    join, size = dist.init_process_group, int(os.environ["WORLD_SIZE"])
    for place, (module, arguments) in enumerate(json.loads(programs)):
        if place > 0:  # torchrun announces one meeting only; the next are in files
            store = dist.FileStore(f"{folder}/meet_{place}", size)
            where = {"store": store, "rank": int(os.environ["RANK"]), "world_size": size}
            dist.init_process_group = functools.partial(join, **where)
        importlib.import_module(module).main(arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
