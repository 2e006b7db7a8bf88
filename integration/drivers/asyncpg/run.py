"""asyncpg with its pool: connection settings come from PG* variables; the same directly and through."""

import asyncio
import io

import asyncpg


async def prepared_statements_and_types(pool):
    await pool.execute("CREATE TABLE asyncs (id int PRIMARY KEY, name text, tags text[], body jsonb)")
    await pool.executemany(
        "INSERT INTO asyncs VALUES ($1, $2, $3, $4)",
        [(number, f"name {number}", ["a", str(number)], '{"n": 1}') for number in range(500)],
    )
    async with pool.acquire() as conn:
        statement = await conn.prepare("SELECT name, tags FROM asyncs WHERE id = $1")
        assert [each.name for each in statement.get_parameters()] == ["int4"]
        for number in range(50):
            row = await statement.fetchrow(number)
            assert tuple(row) == (f"name {number}", ["a", str(number)]), row
        assert [each.name for each in statement.get_attributes()] == ["name", "tags"]
        plan = await statement.explain(1)
        assert plan[0]["Plan"], plan

    async def reader(number):
        row = await pool.fetchrow("SELECT id, name, $2::text AS mine FROM asyncs WHERE id = $1", number, str(number))
        assert tuple(row) == (number, f"name {number}", str(number)), row

    await asyncio.gather(*(reader(number) for number in range(400)))


async def own_types(pool):
    async with pool.acquire() as conn:
        await conn.execute("CREATE TYPE mood AS ENUM ('sad', 'glad')")
        await conn.execute("CREATE TYPE pair AS (a int, b mood)")
        assert await conn.fetchval("SELECT 'glad'::mood") == "glad"
        assert tuple(await conn.fetchval("SELECT (7, 'sad')::pair")) == (7, "sad")
        assert await conn.fetchval("SELECT $1::mood[]", ["sad", "glad"]) == ["sad", "glad"]


async def plans_that_change(pool):
    async with pool.acquire() as conn:
        await conn.execute("CREATE TABLE growing (a int)")
        await conn.execute("INSERT INTO growing VALUES (1)")
        assert tuple(await conn.fetchrow("SELECT * FROM growing")) == (1,)
        await conn.execute("ALTER TABLE growing ADD COLUMN b int DEFAULT 2")
        assert tuple(await conn.fetchrow("SELECT * FROM growing")) == (1, 2)


async def transactions_and_errors(pool):
    async with pool.acquire() as conn:
        try:
            async with conn.transaction():
                await conn.execute("INSERT INTO asyncs (id) VALUES (1000)")
                try:
                    async with conn.transaction():
                        await conn.execute("INSERT INTO asyncs (id) VALUES (1000)")
                except asyncpg.UniqueViolationError as error:
                    assert error.constraint_name == "asyncs_pkey"
                assert await conn.fetchval("SELECT count(*) FROM asyncs WHERE id = 1000") == 1
                await conn.execute("SELECT 1 / 0")
        except asyncpg.DivisionByZeroError:
            pass
        else:
            raise AssertionError("divided by zero")
        assert not conn.is_in_transaction()
        assert await conn.fetchval("SELECT count(*) FROM asyncs WHERE id = 1000") == 0
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            assert await conn.fetchval("SHOW transaction_isolation") == "repeatable read"
            try:
                async with conn.transaction():
                    await conn.execute("DELETE FROM asyncs")
            except asyncpg.ReadOnlySQLTransactionError:
                pass
            else:
                raise AssertionError("written in a read-only transaction")
        try:
            await conn.fetch("SELECT nothing FROM nowhere")
        except asyncpg.UndefinedTableError as error:
            assert error.position == "21", error.position
        else:
            raise AssertionError("nowhere is somewhere")


async def settings(pool):
    async with pool.acquire() as conn:
        await conn.execute("SET application_name = 'of this one'")
        await conn.execute("SELECT set_config('my.key', $1, false)", "mine")
        for _ in range(5):
            assert await conn.fetchval("SHOW application_name") == "of this one"
            assert await conn.fetchval("SELECT current_setting('my.key')") == "mine"
        assert conn.get_settings().application_name == "of this one"
    async with pool.acquire() as conn:
        assert await conn.fetchval("SELECT current_setting('my.key', true)") in (None, "")


async def cursors(pool):
    async with pool.acquire() as conn:
        async with conn.transaction():
            total = 0
            async for row in conn.cursor("SELECT n FROM generate_series(1, 1000) n", prefetch=37):
                total += row["n"]
            assert total == 500500
            cursor = await conn.cursor("SELECT id FROM asyncs WHERE id < $1 ORDER BY id", 100)
            assert [row["id"] for row in await cursor.fetch(3)] == [0, 1, 2]
            await cursor.forward(10)
            assert (await cursor.fetchrow())["id"] == 13


async def copy_both_ways(pool):
    async with pool.acquire() as conn:
        await conn.execute("CREATE TABLE async_copied (n int, t text)")
        records = [(number, f"row {number}") for number in range(20000)]
        status = await conn.copy_records_to_table("async_copied", records=records)
        assert status == "COPY 20000", status
        out = io.BytesIO()
        await conn.copy_from_query("SELECT n FROM async_copied WHERE n < $1", 500, output=out, format="csv")
        assert len(out.getvalue().split()) == 500
        try:
            await conn.copy_to_table("async_copied", source=io.BytesIO(b"not a number\tx\n"))
        except asyncpg.InvalidTextRepresentationError:
            pass
        else:
            raise AssertionError("copied nonsense")
        assert await conn.fetchval("SELECT count(*) FROM async_copied") == 20000


async def cancel_and_time_out(pool):
    async with pool.acquire() as conn:
        for _ in range(3):
            try:
                await conn.fetch("SELECT pg_sleep(60)", timeout=0.3)
            except (asyncio.TimeoutError, TimeoutError):
                pass
            else:
                raise AssertionError("not timed out")
            assert await conn.fetchval("SELECT 1") == 1


async def notifications(pool):
    heard = asyncio.Queue()
    listener = await asyncpg.connect()
    await listener.add_listener("news", lambda _conn, _pid, channel, payload: heard.put_nowait((channel, payload)))
    for number in range(5):
        await pool.execute("SELECT pg_notify('news', $1)", str(number))
        assert await asyncio.wait_for(heard.get(), 30) == ("news", str(number))
    assert await listener.fetchval("SELECT 1") == 1
    await listener.reset()
    await listener.close()


async def large_results(pool):
    rows = await pool.fetch("SELECT n, repeat('x', 100) AS t FROM generate_series(1, 50000) n")
    assert len(rows) == 50000 and rows[-1]["n"] == 50000
    large = "y" * (8 << 20)
    assert await pool.fetchval("SELECT $1::text", large) == large


async def main():
    async with asyncpg.create_pool(min_size=2, max_size=20, timeout=60) as pool:
        for part in (
            prepared_statements_and_types,
            own_types,
            plans_that_change,
            transactions_and_errors,
            settings,
            cursors,
            copy_both_ways,
            cancel_and_time_out,
            notifications,
            large_results,
        ):
            await asyncio.wait_for(part(pool), 60)
            print(part.__name__, flush=True)
    print("all passed")


asyncio.run(main())
