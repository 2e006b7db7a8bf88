"""A flame graph of Causeway's hot path, out of perf's samples, as a small SVG.

flame.py PID OUTPUT [SECONDS]: samples a process that is under load. Frames that cost less than 0.4 % are
left out; each box is a function, as wide as its share of the samples, above who called it.
"""

import html
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

WIDTH, ROW, LEAST = 1200, 16, 0.004


def stacks(pid, seconds):
    """Samples by stack, the outermost function first."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "perf.data"
        subprocess.run(
            ["perf", "record", "-q", "-e", "cpu-clock", "-F", "997", "--call-graph", "dwarf,16384", "-p", str(pid),
             "-o", data, "--", "sleep", str(seconds)],
            check=True,
        )
        script = subprocess.run(
            ["perf", "script", "-i", data, "--no-inline", "-F", "comm,ip,sym"], capture_output=True, text=True
        ).stdout
    counts = defaultdict(int)
    for sample in script.split("\n\n"):
        lines = sample.strip().splitlines()
        if len(lines) > 1 and lines[0].strip().rstrip(":").startswith("causeway"):
            counts[tuple(short(line) for line in reversed(lines[1:]))] += 1
    return counts


def short(line):
    """A function's name without its hash, its generics and the crates' inner paths."""
    name = line.strip().partition(" ")[2].split("+0x")[0].removesuffix("::{{closure}}")
    depth, kept = 0, []
    for character in name:
        depth += character == "<"
        if depth == 0:
            kept.append(character)
        depth -= character == ">"
    parts = "".join(kept).split("::")
    return "::".join(part for part in parts[-3:] if part and not part.startswith("{{")) or name[:60]


def tree(counts):
    root = [0, {}]
    for stack, count in counts.items():
        # What lies between the thread's start and the session's task is the same everywhere.
        ends = ("Context::run_task", "Context::park")
        start = next((i for i, name in enumerate(stack) if name.endswith(ends)), 0)
        node = root
        node[0] += count
        for name in stack[start:]:
            node = node[1].setdefault(name, [0, {}])
            node[0] += count
    return root


def colour(name, kernel):
    if kernel:
        return "#9db8d2"
    return "#e8a15c" if name.split("::")[0] in OURS or "Session" in name else "#e3cf86"


OURS = {"causeway", "session", "relay", "machine", "pool", "sql", "shape", "scan", "router", "cache", "driver"}


def draw(root):
    boxes, deepest = [], 0
    total = root[0]

    def place(children, x, depth, kernel):
        nonlocal deepest
        for name, (count, inner) in sorted(children.items()):
            width = count / total * WIDTH
            inside = kernel or name.startswith(("do_syscall", "entry_SYSCALL", "__x64_sys", "x64_sys_call"))
            if count / total >= LEAST:
                deepest = max(deepest, depth)
                boxes.append((x, depth, width, name, count / total, inside))
                place(inner, x, depth + 1, inside)
            x += width

    place(root[1], 0, 0, False)
    height = (deepest + 1) * ROW + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="10">',
        f'<text x="4" y="12">Causeway, select-only: share of CPU by function; orange its own, blue the kernel ({total} samples)</text>',
    ]
    for x, depth, width, name, part, kernel in boxes:
        y = height - (depth + 1) * ROW
        text = html.escape(name[: max(int(width / 6.2), 0)]) if width > 25 else ""
        out.append(
            f'<g><title>{html.escape(name)} {part:.1%}</title><rect x="{x:.1f}" y="{y}" width="{max(width - 0.4, 0.2):.1f}" '
            f'height="{ROW - 1}" fill="{colour(name, kernel)}"/><text x="{x + 2:.1f}" y="{y + 11}">{text}</text></g>'
        )
    return "\n".join([*out, "</svg>", ""])


def main():
    pid, output, seconds = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 5
    output.write_text(draw(tree(stacks(pid, seconds))))


if __name__ == "__main__":
    main()
