"""Logs in once per case in CASES (see integration/tls/drivers.rs) and says what came of each."""

import asyncio
import json
import os
import ssl

import asyncpg


async def attempt(case):
    root = f"&sslrootcert={case['root']}" if case.get("root") else ""
    dsn = f"postgresql://app:app@{case['host']}:{case['port']}/app?sslmode={case['mode']}{root}"
    try:
        connection = await asyncpg.connect(dsn)
    except (ssl.SSLError, asyncpg.PostgresError, OSError):
        return "refused"
    assert await connection.fetchval("SELECT $1::int", 7) == 7
    over_tls = connection._transport.get_extra_info("ssl_object") is not None
    await connection.close()
    return "in tls" if over_tls else "in plain"


async def main():
    for case in json.loads(os.environ["CASES"]):
        print(case["name"], await attempt(case))


asyncio.run(main())
