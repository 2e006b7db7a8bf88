"""Django over psycopg with its pool: connection settings come from PG* variables."""

import os
from concurrent.futures import ThreadPoolExecutor

import django
from django.conf import settings

settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": os.environ["PGDATABASE"],
            "USER": os.environ["PGUSER"],
            "PASSWORD": os.environ["PGPASSWORD"],
            "HOST": os.environ["PGHOST"],
            "PORT": os.environ["PGPORT"],
            "OPTIONS": {"pool": {"min_size": 1, "max_size": 12}, "server_side_binding": True},
        }
    },
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.contrib.auth.models import Group, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, ProgrammingError, connection, transaction  # noqa: E402
from django.db.models import Count, F  # noqa: E402


def migrations():
    call_command("migrate", verbosity=0)
    assert "auth_user" in connection.introspection.table_names()


def rows_and_relations():
    group = Group.objects.create(name="readers")
    for number in range(30):
        User.objects.create(username=f"user {number}", first_name="a").groups.add(group)
    assert User.objects.filter(groups__name="readers").count() == 30
    assert Group.objects.annotate(n=Count("user")).get(name="readers").n == 30
    User.objects.bulk_create([User(username=f"bulk {number}") for number in range(500)])
    assert User.objects.filter(username__startswith="bulk").update(last_name="b", first_name=F("username")) == 500
    assert User.objects.get_or_create(username="user 3")[1] is False


def transactions_and_errors():
    with transaction.atomic():
        User.objects.create(username="kept")
        try:
            with transaction.atomic():
                User.objects.create(username="kept")
        except IntegrityError:
            pass
        else:
            raise AssertionError("a duplicate was taken")
        assert User.objects.select_for_update().get(username="kept").pk
    try:
        with transaction.atomic():
            User.objects.create(username="undone")
            raise KeyError
    except KeyError:
        pass
    assert not User.objects.filter(username="undone").exists()
    with connection.cursor() as cursor:
        try:
            cursor.execute("SELECT nothing FROM nowhere")
        except ProgrammingError as error:
            assert error.__cause__.sqlstate == "42P01"
        else:
            raise AssertionError("nowhere is somewhere")


def server_side_cursor():
    # In a transaction or not: Django declares it WITH HOLD outside of one.
    assert sum(1 for _ in User.objects.iterator(chunk_size=50)) == User.objects.count()
    with transaction.atomic():
        assert sum(1 for _ in User.objects.order_by("pk").iterator(chunk_size=50)) == User.objects.count()
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('TimeZone'), current_setting('search_path')")
        assert cursor.fetchone()[0] == "UTC"


def many_at_once():
    def client(number):
        try:
            with transaction.atomic():
                user = User.objects.create(username=f"thread {number}")
                user.first_name = str(number)
                user.save()
            assert User.objects.get(username=f"thread {number}").first_name == str(number)
        finally:
            connection.close()

    with ThreadPoolExecutor(12) as threads:
        list(threads.map(client, range(100)))


for part in (migrations, rows_and_relations, transactions_and_errors, server_side_cursor, many_at_once):
    part()
    print(part.__name__, flush=True)
connection.close()
connection.close_pool()
print("all passed")
