# Keeps busy, and counts: an echo server and a connection to it inside the
# machine, and two connections to an echo server outside, of which one is
# always read from.
import os
import socket
import sys
import threading
import time

host, port = sys.argv[1].split(":")


def note(name, text):
    with open("/tmp/." + name, "w") as f:
        f.write(str(text))
    os.rename("/tmp/." + name, "/tmp/" + name)


def echo(conn):
    while data := conn.recv(4096):
        conn.sendall(data)


def serve(server):
    while True:
        conn, _ = server.accept()
        threading.Thread(target=echo, args=(conn,), daemon=True).start()


def blocked():
    conn = socket.create_connection((host, int(port)))
    try:
        why = "end of file" if conn.recv(1) == b"" else "data"
    except OSError as e:
        why = e.strerror
    note("blocked-ended", why)


def count(conn, name):
    n = 0
    while True:
        try:
            conn.sendall(b"x")
            if conn.recv(1) == b"":
                return note(name + "-ended", "end of file")
        except OSError as e:
            return note(name + "-ended", e.strerror)
        n += 1
        note(name, n)
        time.sleep(0.02)


server = socket.create_server(("127.0.0.1", 7001))
outer = socket.create_connection((host, int(port)))
threading.Thread(target=serve, args=(server,), daemon=True).start()
threading.Thread(target=blocked, daemon=True).start()
threading.Thread(target=count, args=(outer, "outer"), daemon=True).start()
count(socket.create_connection(("127.0.0.1", 7001)), "inner")
