import os
import signal
import socket
import subprocess
import sys
import time

from django.core.management.base import BaseCommand, CommandError

from shop import demo

HOST = "127.0.0.1"


class Command(BaseCommand):
    help = "Runs the web server and a worker, until Ctrl-C ends both. A second Ctrl-C does not wait for jobs."

    def add_arguments(self, parser):
        parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 8000))

    def handle(self, *, port, **options):
        check_port_is_free(port)
        self.signals = 0
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.on_signal)
        web = start("runserver", f"{HOST}:{port}", "--noreload", stdout=subprocess.DEVNULL)
        worker = start("runworker", "--no-autoreload")
        try:
            self.wait(port, web, worker)
        finally:
            self.stop(web, worker)
        self.judge(web, worker)

    def on_signal(self, number, frame):
        self.signals += 1

    def wait(self, port, *processes):
        """Return when a signal has come or a process has ended; say where the shop is once it can be visited."""
        announced = False
        while not self.signals and all(process.poll() is None for process in processes):
            if not announced and answers(port):
                self.announce(port)
                announced = True
            time.sleep(0.1)

    def announce(self, port):
        self.stdout.write(
            f"\n  The shop    http://{HOST}:{port}/"
            f"\n  The admin   http://{HOST}:{port}/admin/   user: {demo.USERNAME}   password: {demo.PASSWORD}"
            "\n\n  Ctrl-C ends the web server and the worker.\n"
        )

    def stop(self, *processes):
        """Pass each signal on and wait. The worker finishes its running jobs, unless a second signal comes."""
        passed_on = 0
        while running := [process for process in processes if process.poll() is None]:
            if passed_on < max(1, self.signals):
                passed_on += 1
                for process in running:
                    process.terminate()
            time.sleep(0.1)

    def judge(self, web, worker):
        """A process that ended by itself is an error; after a signal only the worker has a say."""
        if not self.signals:
            raise CommandError("The web server or the worker has ended; the other was stopped, too.")
        if worker.returncode not in (0, -signal.SIGTERM):  # a worker that is still starting dies of the signal
            raise CommandError(f"The worker ended with exit code {worker.returncode}.")
        self.stdout.write("Stopped.")


def start(*arguments, **options):
    # In a session of its own, so that Ctrl-C in the terminal reaches this process alone and each child hears once.
    return subprocess.Popen([sys.executable, sys.argv[0], *arguments], start_new_session=True, **options)


def check_port_is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CommandError(f"Port {port} cannot be used ({error.strerror}). Choose another with PORT.") from None


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0
