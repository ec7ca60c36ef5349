#!/usr/bin/env bash
# The whole method on the embedded shapes, one and a half minutes on two CPU cores: scripts/demo.py.
# Everything goes to data/Shapes, ckpt and expt; a second call finds the work done and only tests.
#   RESULTS=FILE   the table, expt/demo/results.csv unless given
set -euo pipefail
cd "$(dirname "$0")/.."
exec ${PYTHON:-python} -m scripts.demo --results "${RESULTS:-expt/demo/results.csv}"
