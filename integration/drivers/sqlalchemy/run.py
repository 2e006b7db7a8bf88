"""SQLAlchemy with its pool, over psycopg and over asyncpg: connection settings come from PG* variables."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


def url(driver):
    return sa.URL.create(
        f"postgresql+{driver}",
        os.environ["PGUSER"],
        os.environ["PGPASSWORD"],
        os.environ["PGHOST"],
        int(os.environ["PGPORT"]),
        os.environ["PGDATABASE"],
    )


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author")


class Book(Base):
    __tablename__ = "book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(sa.ForeignKey("author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


def rows_and_relations(engine):
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for number in range(50):
            books = [Book(title=f"title {number}.{n}") for n in range(3)]
            session.add(Author(name=f"author {number}", books=books))
        session.commit()
        found = session.scalars(sa.select(Author).where(Author.name.like("author 4%")).order_by(Author.id)).all()
        assert len(found) == 11 and all(len(author.books) == 3 for author in found)
    assert set(sa.inspect(engine).get_table_names()) >= {"author", "book"}
    assert sa.inspect(engine).get_foreign_keys("book")[0]["referred_table"] == "author"


def savepoints_and_errors(engine):
    with Session(engine) as session:
        session.add(Author(name="kept"))
        try:
            with session.begin_nested():
                session.add(Author(name="author 1"))
        except sa.exc.IntegrityError as error:
            assert error.orig.sqlstate == "23505"
        else:
            raise AssertionError("a duplicate was taken")
        session.commit()
        assert session.scalar(sa.select(sa.func.count()).where(Author.name == "kept")) == 1
        try:
            session.execute(sa.text("SELECT nothing FROM nowhere"))
        except sa.exc.ProgrammingError as error:
            assert error.orig.sqlstate == "42P01"
        session.rollback()
        locked = session.scalars(sa.select(Author).where(Author.name == "kept").with_for_update()).one()
        locked.name = "changed"
        session.commit()


def isolation_and_autocommit(engine):
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as conn:
        assert conn.scalar(sa.text("SHOW transaction_isolation")) == "serializable"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.execute(sa.text("VACUUM author"))
    with engine.connect() as conn:
        assert conn.scalar(sa.text("SHOW transaction_isolation")) == "read committed"
    with engine.connect().execution_options(postgresql_readonly=True) as conn:
        assert conn.scalar(sa.text("SHOW transaction_read_only")) == "on"


def server_side_cursor(engine):
    with engine.connect().execution_options(stream_results=True, max_row_buffer=100) as conn:
        rows = conn.execute(sa.text("SELECT generate_series(1, 5000) AS n"))
        assert sum(row.n for row in rows) == 12502500


def many_at_once(engine):
    def client(number):
        with engine.begin() as conn:
            conn.execute(sa.insert(Author), [{"name": f"thread {number}.{n}"} for n in range(10)])
        with Session(engine) as session:
            names = session.scalars(sa.select(Author.name).where(Author.name.like(f"thread {number}.%")))
            assert len(set(names)) == 10

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(client, range(64)))


async def with_asyncpg():
    engine = create_async_engine(url("asyncpg"), pool_size=8)
    async with engine.connect() as conn:
        stream = await conn.stream(sa.text("SELECT generate_series(1, 1000) AS n"))
        assert sum([row.n async for row in stream]) == 500500

    async def client(number):
        async with AsyncSession(engine) as session:
            session.add(Author(name=f"task {number}"))
            await session.commit()
            found = await session.scalars(sa.select(Author).where(Author.name == f"task {number}"))
            assert found.one().name == f"task {number}"

    await asyncio.gather(*(client(number) for number in range(40)))
    await engine.dispose()


engine = sa.create_engine(url("psycopg"), pool_size=8, max_overflow=8, pool_pre_ping=True)
for part in (
    rows_and_relations,
    savepoints_and_errors,
    isolation_and_autocommit,
    server_side_cursor,
    many_at_once,
):
    part(engine)
    print(part.__name__, flush=True)
engine.dispose()
asyncio.run(with_asyncpg())
print("all passed")
