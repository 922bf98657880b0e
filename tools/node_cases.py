"""Lists what becomes of each node test that the onnx package ships: makes tests/node_cases.md anew.

python tools/node_cases.py            # rewrite the list
python tools/node_cases.py --check    # exit 1 when it is out of date
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
LIST = TESTS / "node_cases.md"


def main() -> int:
    sys.path.insert(0, str(TESTS))
    from node_data import cases
    from node_sweep import judge, report

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    text = report([judge(name) for name in cases()])
    if parser.parse_args().check:
        current = LIST.exists() and LIST.read_text() == text
        print("up to date" if current else f"{LIST} is out of date: run python tools/node_cases.py", file=sys.stderr)
        return 0 if current else 1
    LIST.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
