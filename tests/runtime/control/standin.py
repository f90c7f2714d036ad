"""Stands in for Python in pods: `standin.py -m MODULE` behaves like that module, told by signals.

It tells the test when it is ready. A worker ends with the job's success on SIGUSR1, with a program
error on SIGUSR2 and like a preempted one on SIGTERM; a stubborn one does not care for SIGTERM. Each
worker has a child in a session of its own. A coordinator answers from files.
"""

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

FOLDER = Path(os.environ["STANDIN_FOLDER"])
NAME = os.environ["REKNIT_POD_NAME"]
TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 3\nValueError: no'


def tell(**what):
    names = ("REKNIT_SESSION", "REKNIT_POD_IP", "REKNIT_INCARNATION", "REKNIT_COORDINATOR")
    what |= {"pod": NAME, "pid": os.getpid()}
    what |= {name.removeprefix("REKNIT_").lower(): os.environ.get(name) for name in names}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(json.dumps(what).encode(), str(FOLDER / "notes"))


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.partition("?")[0]
        known = path == "/metrics" or (
            self.headers["Authorization"] == f"Bearer {os.environ['REKNIT_TOKEN']}"
        )
        text = "reknit_step 7\n"
        if path == "/status":
            text = (FOLDER / "status.json").read_text()
            text = text.replace('"INCARNATION"', os.environ["REKNIT_INCARNATION"])
        if path == "/history":
            after = int(self.path.partition("=")[2])
            records = json.loads((FOLDER / "history.json").read_text())
            for record in records:
                record["message"] = NAME
            text = json.dumps({"records": records[after:], "next": len(records)})
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments):
        pass


def coordinate():
    server = http.server.ThreadingHTTPServer((os.environ["REKNIT_POD_IP"], 7070), Answers)
    tell()
    server.serve_forever()


def work():
    numbers = {signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    tell(child=child.pid)
    if "STUBBORN" in os.environ:
        numbers.discard(signal.SIGTERM)
    number = signal.sigwait(numbers)
    classes = {signal.SIGUSR1: "Succeeded", signal.SIGUSR2: "ProgramError"}
    word = {"exit_class": classes.get(number, "Preempted"), "message": f"told by {number}"}
    if number == signal.SIGUSR2:
        word["error"] = {"exception": "ValueError: no", "traceback": TRACEBACK}
    Path(os.environ["REKNIT_TERMINATION_LOG"]).write_text(json.dumps(word))
    print("leaving")
    # The child stays behind on purpose.
    os._exit({"Succeeded": 0, "ProgramError": 1, "Preempted": 143}[word["exit_class"]])


if __name__ == "__main__":
    coordinate() if sys.argv[2] == "reknit.coordinator" else work()
