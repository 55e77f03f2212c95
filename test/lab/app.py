"""The lab's app in Python: HTTP/1.1 over TLS by the ssl module. app.py NAME PORT CERTIFICATE RECORDS"""
import http.server
import json
import socket
import ssl
import sys

name, port, certificate, records = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
log = open(records, "a", buffering=1) if records else None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        body = (name + " ok\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if log:  # before the answer's last byte: who has that can read the record
            record = {"target": self.path.partition("?")[0], "status": 200, "received": 0, "sent": 0}
            for key in ("truth-id", "request-id"):
                record[key.replace("-", "_")] = self.headers.get("x-" + key, "")
            log.write(json.dumps(record) + "\n")
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 1024

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self):  # the handshake is left to the connection's own thread
        conn, address = self.socket.accept()
        return context.wrap_socket(conn, server_side=True, do_handshake_on_connect=False), address


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate)
Server(("::", port), Handler).serve_forever()
