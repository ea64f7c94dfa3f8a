"""The other ends of the tests: a pod's server, and what a client asks.

    peer.py serve NAME ADDRESS PORT          TCP and UDP; answers "NAME CLIENT-ADDRESS" to whatever is asked
    peer.py ask tcp|udp SOURCE ADDRESS PORT  prints the answer; exit code 3: refused, 4: nobody answered, 5: it was never asked
    peer.py hold SOURCE ADDRESS PORT         keeps one TCP connection: a question for every line of stdin, the answer on stdout
"""

import errno
import socket
import socketserver
import sys
import threading

PATIENCE = 3.0


class Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for _ in self.rfile:
            self.wfile.write(f"{NAME} {self.client_address[0]}\n".encode())


class Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(f"{NAME} {self.client_address[0]}\n".encode(), self.client_address)


class TcpServer(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def serve(address: str, port: int) -> None:
    udp = socketserver.ThreadingUDPServer((address, port), Udp)
    threading.Thread(target=udp.serve_forever, daemon=True).start()
    TcpServer((address, port), Tcp).serve_forever()


def connect(source: str, address: str, port: int) -> socket.socket:
    return socket.create_connection((address, port), PATIENCE, (source, 0))


def ask(protocol: str, source: str, address: str, port: int) -> str:
    if protocol == "tcp":
        with connect(source, address, port) as sock:
            sock.sendall(b"?\n")
            return sock.makefile().readline()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE)
        sock.bind((source, 0))
        sock.connect((address, port))
        sock.send(b"?\n")
        return sock.recv(512).decode()


def hold(source: str, address: str, port: int) -> None:
    with connect(source, address, port) as sock:
        sock.settimeout(60)
        answers = sock.makefile()
        for _ in sys.stdin:
            sock.sendall(b"?\n")
            print(answers.readline().strip() or "closed", flush=True)


def main(arguments: list[str]) -> int:
    global NAME
    match arguments:
        case ["serve", NAME, address, port]:
            serve(address, int(port))
        case ["ask", ("tcp" | "udp") as protocol, source, address, port]:
            try:
                answer = ask(protocol, source, address, int(port))
            except ConnectionRefusedError:
                return 3
            except (TimeoutError, ConnectionResetError):
                return 4
            except OSError as error:
                # A box that is off; anything else is the test's own fault: a source that the machine lacks, or no route.
                if error.errno == errno.EHOSTUNREACH:
                    return 4
                print(error, file=sys.stderr)
                return 5
            if not answer:
                return 4
            print(answer, end="")
        case ["hold", source, address, port]:
            hold(source, address, int(port))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


NAME = ""
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
