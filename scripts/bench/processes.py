"""What the operating system says of a process and its children: processor time and memory."""

import shutil
import subprocess
import time
from pathlib import Path


def tree(pid):
    """The process and all that it has started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*"):
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def cpu(pid):
    """Seconds of processor time that all threads have used, user and system. Nanoseconds are counted
    by the scheduler; a thread that has ended takes its time along, so none may end in between."""
    used = 0
    for process in tree(pid):
        for task in Path(f"/proc/{process}/task").glob("*"):
            used += int((task / "schedstat").read_text().split()[0])
    return used / 1e9


def pss(pid):
    """Bytes of memory, what is shared with other processes divided among them."""
    total = 0
    for process in tree(pid):
        for line in open(f"/proc/{process}/smaps_rollup"):
            if line.startswith("Pss:"):
                total += int(line.split()[1]) * 1024
    return total


def forget_peak(pid):
    """Begins to measure the largest resident set anew."""
    for process in tree(pid):
        Path(f"/proc/{process}/clear_refs").write_text("5")


def peak(pid):
    """The largest resident set since, in bytes."""
    total = 0
    for process in tree(pid):
        for line in open(f"/proc/{process}/status"):
            if line.startswith("VmHWM:"):
                total += int(line.split()[1]) * 1024
    return total


class Profile:
    """Samples of where a process spends its time, by perf; `with` begins and ends it."""

    def __init__(self, pid, directory):
        self.file, self.recorder = directory / "perf.data", None
        if shutil.which("perf"):
            command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "1999", "-p", str(pid), "-o", self.file]
            self.recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        time.sleep(0.2)
        return self

    def __exit__(self, *_):
        if self.recorder:
            self.recorder.terminate()
            self.recorder.wait()

    def share(self, *prefixes):
        """The share of all samples in functions whose path begins so, in percent; None without perf."""
        if not self.file.exists():
            return None
        command = ["perf", "report", "-i", self.file, "--stdio", "--no-children", "--sort", "symbol"]
        report = subprocess.run(command, capture_output=True, text=True).stdout
        total = 0.0
        for line in report.splitlines():
            part, _, symbol = line.strip().partition("%")
            if "[.]" in symbol and any(prefix in symbol for prefix in prefixes):
                total += float(part)
        return total if "%" in report else None
