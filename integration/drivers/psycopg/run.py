"""psycopg 3 through Causeway: sync, async and pipeline; connection settings come from PG* variables."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool


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
            row = conn.execute("SELECT name, tags FROM things WHERE id = %s", (number,)).fetchone()
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
        count = conn.execute("SELECT count(*) FROM things WHERE id = 1000").fetchone()
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


def pipelines_with_errors():
    with psycopg.connect(autocommit=True, prepare_threshold=1) as conn:
        with conn.pipeline() as pipeline:
            good = conn.execute("SELECT 1")
            bad = conn.execute("SELECT 1 / %s::int", (0,))
            # The errors are raised by whatever is asked when they come, in their order.
            seen, cursors = [], [bad]

            def attempt(step):
                try:
                    return step()
                except (psycopg.errors.DivisionByZero, psycopg.errors.PipelineAborted, psycopg.ProgrammingError) as error:
                    seen.append(type(error))
                    return None

            attempt(lambda: cursors.append(conn.execute("SELECT 2")))
            attempt(pipeline.sync)
            assert good.fetchone() == (1,)
            for cursor in cursors:
                assert attempt(cursor.fetchone) is None, "a result after an error"
            attempt(pipeline.sync)
            assert psycopg.errors.DivisionByZero in seen, seen
            again = conn.execute("SELECT 3")
            pipeline.sync()
            assert again.fetchone() == (3,)
        with conn.transaction(), conn.pipeline():
            conn.execute("CREATE TABLE piped (n int)")
            conn.cursor().executemany("INSERT INTO piped VALUES (%s)", [(n,) for n in range(1000)])
        assert conn.execute("SELECT count(*) FROM piped").fetchone() == (1000,)


def cursors_of_all_kinds():
    with psycopg.connect() as conn:
        with conn.cursor(name="held", withhold=True, scrollable=True) as cursor:
            cursor.execute("SELECT generate_series(1, 100)")
            conn.commit()
            cursor.scroll(50, mode="absolute")
            assert cursor.fetchone() == (51,)
        cursor = psycopg.ClientCursor(conn)
        assert cursor.execute("SELECT %s, %s", (1, "it's")).fetchone() == (1, "it's")
        assert sum(row[0] for row in conn.cursor().stream("SELECT generate_series(1, 1000)")) == 500500


def settings():
    with psycopg.connect(autocommit=True, options="-c search_path=pg_catalog -c my.own=kept") as conn:
        conn.execute("SET TIME ZONE 'Asia/Tokyo'")
        assert conn.info.parameter_status("TimeZone") == "Asia/Tokyo"
        for _ in range(5):
            row = conn.execute(
                "SELECT current_setting('TimeZone'), current_setting('search_path'), current_setting('my.own')"
            ).fetchone()
            assert row == ("Asia/Tokyo", "pg_catalog", "kept"), row
        conn.execute("CREATE TEMP TABLE mine (n int)")
        conn.execute("INSERT INTO mine VALUES (1)")
        assert conn.execute("SELECT n FROM mine").fetchone() == (1,)


def notifications():
    with psycopg.connect(autocommit=True) as conn, psycopg.connect(autocommit=True) as other:
        conn.execute("LISTEN news")
        for number in range(5):
            other.execute("SELECT pg_notify('news', %s)", (str(number),))
        heard = [notify.payload for notify in conn.notifies(timeout=30, stop_after=5)]
        assert heard == ["0", "1", "2", "3", "4"], heard


def large_results():
    with psycopg.connect() as conn:
        with conn.cursor(binary=True) as cursor:
            cursor.execute("SELECT n, repeat('x', 100) FROM generate_series(1, 50000) n")
            assert len(cursor.fetchall()) == 50000
        large = b"\\x" * (4 << 20)
        assert conn.execute("SELECT %s::bytea", (large,), binary=True).fetchone() == (large,)


def pool_of_threads():
    with ConnectionPool(min_size=2, max_size=12, check=ConnectionPool.check_connection) as pool:

        def client(number):
            with pool.connection() as conn:
                conn.execute("SELECT set_config('my.number', %s, true)", (str(number),))
                row = conn.execute("SELECT current_setting('my.number')").fetchone()
                assert row == (str(number),), row

        with ThreadPoolExecutor(12) as threads:
            list(threads.map(client, range(200)))


async def pool_of_tasks():
    async with AsyncConnectionPool(min_size=2, max_size=12) as pool:

        async def client(number):
            async with pool.connection() as conn, conn.pipeline():
                cursors = [await conn.execute("SELECT %s::int", (number + n,)) for n in range(10)]
                assert [(await cursor.fetchone())[0] for cursor in cursors] == [number + n for n in range(10)]

        await asyncio.gather(*(client(number) for number in range(100)))


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


for part in (
    prepared_statements_and_types,
    transactions_and_errors,
    copy_both_ways,
    server_side_cursor,
    cursors_of_all_kinds,
    settings,
    pipeline,
    pipelines_with_errors,
    notifications,
    large_results,
    pool_of_threads,
    cancel,
):
    part()
    print(part.__name__, flush=True)
asyncio.run(many_at_once())
asyncio.run(pool_of_tasks())
print("all passed")
