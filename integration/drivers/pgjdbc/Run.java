// pgjdbc, as a single source file: connection settings come from PG* variables.

import java.io.StringReader;
import java.io.StringWriter;
import java.sql.*;
import java.util.Properties;
import java.util.concurrent.*;
import org.postgresql.PGConnection;
import org.postgresql.PGNotification;

public class Run {
    static String url() {
        var env = System.getenv();
        return "jdbc:postgresql://" + env.get("PGHOST") + ":" + env.get("PGPORT") + "/" + env.get("PGDATABASE");
    }

    static Connection connect(String... more) throws SQLException {
        var properties = new Properties();
        properties.put("user", System.getenv("PGUSER"));
        properties.put("password", System.getenv("PGPASSWORD"));
        for (int n = 0; n < more.length; n += 2) properties.put(more[n], more[n + 1]);
        return DriverManager.getConnection(url(), properties);
    }

    static void check(boolean holds, Object what) {
        if (!holds) throw new AssertionError(what);
    }

    static long number(Connection conn, String sql) throws SQLException {
        try (var statement = conn.createStatement(); var rows = statement.executeQuery(sql)) {
            check(rows.next(), sql);
            return rows.getLong(1);
        }
    }

    interface Action {
        void run() throws Exception;
    }

    static void fails(String sqlstate, Action action) throws Exception {
        try {
            action.run();
        } catch (SQLException error) {
            check(sqlstate.equals(error.getSQLState()), error);
            return;
        }
        throw new AssertionError("no " + sqlstate);
    }

    // From its fifth execution a statement is prepared at the server under a name, with binary results.
    static void preparedStatements() throws Exception {
        try (var conn = connect()) {
            try (var statement = conn.createStatement()) {
                statement.execute("CREATE TABLE beans (id int PRIMARY KEY, name text, made timestamptz DEFAULT now())");
            }
            try (var insert = conn.prepareStatement("INSERT INTO beans (id, name) VALUES (?, ?)")) {
                for (int n = 0; n < 20; n++) {
                    insert.setInt(1, n);
                    insert.setString(2, "bean " + n);
                    check(insert.executeUpdate() == 1, n);
                }
            }
            try (var select = conn.prepareStatement("SELECT name, made FROM beans WHERE id = ?")) {
                for (int n = 0; n < 20; n++) {
                    select.setInt(1, n);
                    try (var rows = select.executeQuery()) {
                        check(rows.next() && rows.getString(1).equals("bean " + n), n);
                        check(rows.getTimestamp(2) != null, n);
                    }
                }
            }
        }
    }

    static void batches() throws Exception {
        for (var rewrite : new String[] {"false", "true"}) {
            try (var conn = connect("reWriteBatchedInserts", rewrite)) {
                int base = rewrite.equals("true") ? 10000 : 1000;
                try (var insert = conn.prepareStatement("INSERT INTO beans (id, name) VALUES (?, ?)")) {
                    for (int n = 0; n < 2000; n++) {
                        insert.setInt(1, base + n);
                        insert.setString(2, "batch");
                        insert.addBatch();
                    }
                    check(insert.executeBatch().length == 2000, rewrite);
                }
                check(number(conn, "SELECT count(*) FROM beans WHERE id >= " + base) == 2000, rewrite);
                try (var keys = conn.prepareStatement("INSERT INTO beans (id, name) VALUES (?, 'k')", new String[] {"made"})) {
                    for (int n = 0; n < 300; n++) {
                        keys.setInt(1, base + 5000 + n);
                        keys.addBatch();
                    }
                    keys.executeBatch();
                    int made = 0;
                    for (var rows = keys.getGeneratedKeys(); rows.next(); ) made++;
                    check(made == 300, made);
                }
            }
        }
    }

    static void transactionsAndErrors() throws Exception {
        try (var conn = connect(); var statement = conn.createStatement()) {
            conn.setAutoCommit(false);
            statement.execute("INSERT INTO beans (id) VALUES (-1)");
            var before = conn.setSavepoint();
            fails("23505", () -> statement.execute("INSERT INTO beans (id) VALUES (-1)"));
            fails("25P02", () -> statement.execute("SELECT 1"));
            conn.rollback(before);
            check(number(conn, "SELECT count(*) FROM beans WHERE id = -1") == 1, "savepoint");
            conn.rollback();
            check(number(conn, "SELECT count(*) FROM beans WHERE id = -1") == 0, "rollback");
            conn.commit();
            conn.setReadOnly(true);
            fails("25006", () -> statement.execute("DELETE FROM beans"));
            conn.rollback();
            conn.setReadOnly(false);
            conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            check(number(conn, "SELECT count(*) FROM beans WHERE id = 3") == 1, "serializable");
            conn.commit();
            conn.setAutoCommit(true);
            fails("42P01", () -> statement.executeQuery("SELECT nothing FROM nowhere"));
            check(number(conn, "SELECT 1") == 1, "after an error");
        }
        // A savepoint round every statement, and statements that only failed for a stale plan run again.
        try (var conn = connect("autosave", "always"); var statement = conn.createStatement()) {
            conn.setAutoCommit(false);
            statement.execute("INSERT INTO beans (id) VALUES (-2)");
            fails("22012", () -> statement.execute("SELECT 1 / 0"));
            conn.commit();
            check(number(conn, "SELECT count(*) FROM beans WHERE id = -2") == 1, "autosave");
        }
    }

    static void cursors() throws Exception {
        try (var conn = connect(); var statement = conn.createStatement()) {
            conn.setAutoCommit(false);
            statement.setFetchSize(100);
            long sum = 0;
            try (var rows = statement.executeQuery("SELECT n FROM generate_series(1, 5000) n")) {
                while (rows.next()) sum += rows.getLong(1);
            }
            check(sum == 12502500, sum);
            conn.commit();
        }
    }

    static void copyBothWays() throws Exception {
        try (var conn = connect(); var statement = conn.createStatement()) {
            statement.execute("CREATE TABLE poured (n int, t text)");
            var copy = conn.unwrap(PGConnection.class).getCopyAPI();
            var text = new StringBuilder();
            for (int n = 0; n < 20000; n++) text.append(n).append("\trow ").append(n).append('\n');
            check(copy.copyIn("COPY poured FROM STDIN", new StringReader(text.toString())) == 20000, "in");
            var out = new StringWriter();
            check(copy.copyOut("COPY poured TO STDOUT", out) == 20000, "out");
            check(out.toString().length() == text.length(), "length");
            fails("22P02", () -> copy.copyIn("COPY poured FROM STDIN", new StringReader("x\ty\n")));
            check(number(conn, "SELECT count(*) FROM poured") == 20000, "after a failed copy");
        }
    }

    static void cancelAndTimeOut() throws Exception {
        try (var conn = connect(); var statement = conn.createStatement()) {
            var clock = Executors.newSingleThreadScheduledExecutor();
            clock.schedule(() -> {
                statement.cancel();
                return null;
            }, 500, TimeUnit.MILLISECONDS);
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            clock.shutdown();
            check(number(conn, "SELECT 1") == 1, "after a cancel");
            statement.setQueryTimeout(1);
            fails("57014", () -> statement.execute("SELECT pg_sleep(60)"));
            check(number(conn, "SELECT 1") == 1, "after a time-out");
        }
    }

    static void notifications() throws Exception {
        try (var conn = connect(); var other = connect(); var statement = conn.createStatement()) {
            statement.execute("LISTEN coffee");
            for (int n = 0; n < 5; n++) {
                try (var notify = other.prepareStatement("SELECT pg_notify('coffee', ?)")) {
                    notify.setString(1, "cup " + n);
                    notify.execute();
                }
                PGNotification[] heard = conn.unwrap(PGConnection.class).getNotifications(30_000);
                check(heard != null && heard.length == 1, n);
                check(heard[0].getParameter().equals("cup " + n), heard[0].getParameter());
            }
        }
    }

    static void settings() throws Exception {
        try (var conn = connect("ApplicationName", "beans", "currentSchema", "pg_catalog,public")) {
            for (int n = 0; n < 4; n++) {
                try (var rows = conn.createStatement().executeQuery("SELECT current_setting('application_name'), current_setting('search_path')")) {
                    check(rows.next() && rows.getString(1).equals("beans"), rows.getString(1));
                    check(rows.getString(2).equals("pg_catalog,public"), rows.getString(2));
                }
            }
            conn.setClientInfo("ApplicationName", "changed");
            conn.setSchema("public");
            check(conn.getSchema().equals("public"), conn.getSchema());
            check(conn.getClientInfo("ApplicationName").equals("changed"), "client info");
        }
    }

    static void largeResultsAndMetadata() throws Exception {
        try (var conn = connect(); var statement = conn.createStatement()) {
            try (var rows = statement.executeQuery("SELECT n, repeat('x', 100) FROM generate_series(1, 50000) n")) {
                int count = 0;
                while (rows.next()) count++;
                check(count == 50000, count);
            }
            try (var select = conn.prepareStatement("SELECT length(?)")) {
                select.setString(1, "y".repeat(8 << 20));
                try (var rows = select.executeQuery()) {
                    check(rows.next() && rows.getInt(1) == 8 << 20, "large parameter");
                }
            }
            try (var rows = conn.getMetaData().getColumns(null, "public", "beans", null)) {
                int columns = 0;
                while (rows.next()) columns++;
                check(columns == 3, columns);
            }
        }
    }

    static void manyAtOnce() throws Exception {
        var threads = Executors.newFixedThreadPool(12);
        var clients = new java.util.ArrayList<Future<?>>();
        for (int c = 0; c < 12; c++) {
            int client = c;
            clients.add(threads.submit(() -> {
                try (var conn = connect(); var select = conn.prepareStatement("SELECT ?::int, ?::text")) {
                    for (int n = 0; n < 50; n++) {
                        select.setInt(1, client);
                        select.setString(2, client + "." + n);
                        try (var rows = select.executeQuery()) {
                            check(rows.next() && rows.getInt(1) == client, client);
                            check(rows.getString(2).equals(client + "." + n), client);
                        }
                    }
                }
                return null;
            }));
        }
        for (var client : clients) client.get(60, TimeUnit.SECONDS);
        threads.shutdown();
    }

    public static void main(String[] arguments) throws Exception {
        preparedStatements();
        batches();
        transactionsAndErrors();
        cursors();
        copyBothWays();
        cancelAndTimeOut();
        notifications();
        settings();
        largeResultsAndMetadata();
        manyAtOnce();
        System.out.println("all passed");
    }
}
