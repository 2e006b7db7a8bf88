"""psycopg 3 through Causeway: sync, async and pipeline; connection settings come from PG* variables."""

import asyncio
import threading

import psycopg


def prepared_statements_and_types():
    with psycopg.connect(prepare_threshold=1) as conn:
        conn.execute("CREATE TABLE things (id int PRIMARY KEY, name text, tags text[], made timestamptz)")
        for number in range(20):
            conn.execute(
                "INSERT INTO things VALUES (%s, %s, %s, now())",
                (number, f"thing {number}", ["a", str(number)]),
            )
    with psycopg.connect(prepare_threshold=1, autocommit=True) as conn:
        for number in range(20):
            # A replica may not have it yet, consistency is "eventual" here: FOR UPDATE reads the primary.
            row = conn.execute(
                "SELECT name, tags FROM things WHERE id = %s FOR UPDATE", (number,)
            ).fetchone()
            assert row == (f"thing {number}", ["a", str(number)]), row
        for number in range(20):
            assert conn.execute("SELECT %s::int + 1", (number,), binary=True).fetchone() == (number + 1,)


def transactions_and_errors():
    with psycopg.connect() as conn:
        try:
            with conn.transaction():
                conn.execute("INSERT INTO things (id) VALUES (1000)")
                with conn.transaction():
                    conn.execute("INSERT INTO things (id) VALUES (1000)")
        except psycopg.errors.UniqueViolation:
            pass
        else:
            raise AssertionError("a duplicate key was taken")
        count = conn.execute("SELECT count(*) FROM things WHERE id = 1000 AND now() IS NOT NULL").fetchone()
        assert count == (0,), count
    with psycopg.connect(autocommit=True) as conn:
        try:
            conn.execute("SELECT 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        assert conn.execute("SELECT 1").fetchone() == (1,)


def copy_both_ways():
    with psycopg.connect() as conn:
        conn.execute("CREATE TABLE copied (n int, t text)")
        with conn.cursor().copy("COPY copied FROM STDIN") as copy:
            for number in range(5000):
                copy.write_row((number, f"row {number}"))
        with conn.cursor().copy("COPY copied TO STDOUT") as copy:
            rows = sum(1 for _ in copy.rows())
        assert rows == 5000, rows


def server_side_cursor():
    with psycopg.connect() as conn:
        with conn.cursor(name="named") as cursor:
            cursor.itersize = 100
            cursor.execute("SELECT generate_series(1, 1000)")
            assert sum(row[0] for row in cursor) == 500500


def pipeline():
    with psycopg.connect(autocommit=True) as conn:
        with conn.pipeline():
            cursors = [conn.execute("SELECT %s::int", (number,)) for number in range(500)]
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(500))


def cancel():
    with psycopg.connect(autocommit=True) as conn:
        timer = threading.Timer(0.5, conn.cancel)
        timer.start()
        try:
            conn.execute("SELECT pg_sleep(60)")
        except psycopg.errors.QueryCanceled:
            pass
        else:
            raise AssertionError("not cancelled")
        timer.join()
        assert conn.execute("SELECT 1").fetchone() == (1,)


async def many_at_once():
    async def client(number):
        async with await psycopg.AsyncConnection.connect(autocommit=True, prepare_threshold=2) as conn:
            for step in range(30):
                cursor = await conn.execute("SELECT %s::int, %s::text", (number, f"{number}.{step}"))
                assert await cursor.fetchone() == (number, f"{number}.{step}")

    await asyncio.gather(*(client(number) for number in range(20)))


prepared_statements_and_types()
transactions_and_errors()
copy_both_ways()
server_side_cursor()
pipeline()
cancel()
asyncio.run(many_at_once())
print("all passed")
