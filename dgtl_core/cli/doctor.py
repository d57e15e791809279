# SPDX-License-Identifier: Apache-2.0
"""``dgtl doctor``: does this computer have what it takes, and what mends what it has not?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import json

from dgtl_core.doctor import examine, GOOD, MEND


def main(arguments: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog='dgtl doctor', description='Check Python and its packages, the GPU, ROS 2, shared '
        'memory and the disk. Each line is good, absent (and needed only for what it says), or to '
        'mend, with the command that mends it. Nothing is changed. The exit code is 1 if '
        'something is to mend.')
    parser.add_argument('--json', action='store_true', help='print a JSON list of the lines')
    args = parser.parse_args(arguments)
    findings = []
    for finding in examine():
        findings.append(finding)
        if not args.json:
            print(f'{finding.state:<8} {finding.name:<15} {finding.found}', flush=True)
            if finding.state != GOOD:
                print(f'{"":<24} -> {finding.mend}')
    if args.json:
        print(json.dumps([finding._asdict() for finding in findings]))
    return int(any(finding.state == MEND for finding in findings))
