# For the scripts that prepare a set, to be sourced with their arguments: goes to the root of the
# project and unpacks the archive or links the folder that $1 names into the folder $unpacked, which is
# removed at the end. What follows $1 stays in "$@".
if [ $# -lt 1 ] || [ ! -e "$1" ]; then
    echo "usage: bash scripts/$(basename "$0") ARCHIVE_OR_FOLDER [options of data.prepare]" >&2
    if [ $# -ge 1 ]; then echo "there is no file or folder $1" >&2; fi
    exit 2
fi
given=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python}
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
unpacked=$temporary/$(basename "$given") # a set remembers what its source was called
mkdir "$unpacked"
if [ -d "$given" ]; then
    ln -s "$given" "$unpacked"
elif [[ $given == *.zip ]]; then
    unzip -q "$given" -d "$unpacked"
else
    tar -xf "$given" -C "$unpacked"
fi
