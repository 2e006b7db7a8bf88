"""Logs in once per case in CASES (see integration/tls/drivers.rs) and says what came of each."""

import json
import os

import psycopg

for case in json.loads(os.environ["CASES"]):
    words = {"sslmode": case["mode"]}
    if case.get("root"):
        words["sslrootcert"] = case["root"]
    if case.get("binding"):
        words["channel_binding"] = case["binding"]
    if case.get("negotiation"):
        words["sslnegotiation"] = case["negotiation"]
    try:
        with psycopg.connect(
            host=case["host"],
            port=case["port"],
            user="app",
            password="app",
            dbname="app",
            gssencmode="disable",
            **words,
        ) as connection:
            assert connection.execute("SELECT 7").fetchone() == (7,)
            print(case["name"], "in", "tls" if connection.pgconn.ssl_in_use else "plain")
    except psycopg.OperationalError:
        print(case["name"], "refused")
