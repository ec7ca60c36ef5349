"""Programs one after the other in the processes of one torchrun, which takes seconds to start.

The argument is a JSON list of pairs: the module of the program, the arguments of its ``main``.
"""

import importlib
import json
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.getcwd())
    for place, (module, arguments) in enumerate(json.loads(sys.argv[1])):
        # keys of its own in the store at which processes meet
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(place)
        importlib.import_module(module).main(arguments)
